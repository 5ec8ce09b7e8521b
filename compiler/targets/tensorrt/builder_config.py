"""Tell TensorRT's builder what a job asks for, inside the builder's process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from castline.compiler.targets.tensorrt.job import Job

_FIRST_TYPED_ONLY = 11
"""The major version from which networks of TensorRT are strongly typed without a flag."""
_LEVELS = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}


class NoSuchOptionError(Exception):
    """The job asks for what this TensorRT does not have."""


def network_from(job: Job, trt: Any) -> tuple[Any, ...]:
    """Return Polygraphy's builder, network and parser of the model, strongly typed.

    Raises PolygraphyException where the parser refuses the model; the reasons are logged; and
    NoSuchOptionError where it puts no plugins in the place of functions.
    """
    from polygraphy.backend.trt import NetworkFromOnnxPath  # noqa: PLC0415 - needs the environment

    flags = [_plugin_flag(trt)] if job.plugin_nodes else []
    typed = _has_typed_flag(trt)
    network: tuple[Any, ...] = NetworkFromOnnxPath(job.model, flags=flags, strongly_typed=typed)()
    return network


def _plugin_flag(trt: Any) -> Any:
    flag = getattr(trt.OnnxParserFlag, "ENABLE_PLUGIN_OVERRIDE", None)
    if flag is None:
        raise NoSuchOptionError(
            f"the ONNX parser of TensorRT {trt.__version__} puts no plugin in the place of a "
            "function (it has no flag ENABLE_PLUGIN_OVERRIDE). Take a later TensorRT, or compile "
            "with a recipe that needs no plugins"
        )
    return flag


def _has_typed_flag(trt: Any) -> bool:
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return True
    if int(trt.__version__.split(".")[0]) < _FIRST_TYPED_ONLY:
        raise NoSuchOptionError(
            f"TensorRT {trt.__version__} has no strongly typed networks; 10.0 or later is needed"
        )
    return False


def builder_config(job: Job, trt: Any) -> Callable[..., Any]:
    """Return what makes the IBuilderConfig of the job, given a builder and a network.

    Raises:
        NoSuchOptionError: this TensorRT does not have what the job asks for.
    """
    from polygraphy.backend.trt import (  # noqa: PLC0415 - needs the environment
        CreateConfig,
        PostprocessConfig,
    )

    capabilities = _capabilities(trt, job.compute_capabilities)

    def finish(builder: Any, network: Any, config: Any) -> None:  # noqa: ARG001
        if capabilities:  # none means the default set
            config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)
        if job.strip_weights:
            config.set_flag(_flag(trt, "STRIP_PLAN"))
            # The weights that come back are those of the same model, so kernels may be chosen for
            # them; TensorRT 11.3 also loses biases under REFIT (its release notes).
            config.set_flag(_flag(trt, "REFIT_IDENTICAL"))

    pools = {} if job.workspace is None else {trt.MemoryPoolType.WORKSPACE: job.workspace}
    created = CreateConfig(
        profiles=_profiles(job),
        load_timing_cache=job.timing_cache or None,
        version_compatible=job.version_compatible,
        hardware_compatibility_level=_level(trt, job.hardware_compatibility),
        memory_pool_limits=pools or None,
    )
    made: Callable[..., Any] = PostprocessConfig(created, finish)
    return made


def _profiles(job: Job) -> list[Any]:
    from polygraphy.backend.trt import Profile  # noqa: PLC0415 - needs the environment

    profiles = [Profile() for _ in job.profiles]
    for profile, shapes_of in zip(profiles, job.profiles, strict=True):
        for name, shapes in shapes_of.items():
            profile.add(name, *map(tuple, shapes))
    return profiles


def known_capabilities(trt: Any) -> dict[str, Any]:
    """Return what a TensorRT calls each compute capability that it builds for, as 8.9."""
    return {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }


def _capabilities(trt: Any, wanted: list[str]) -> list[Any]:
    if not wanted:
        return []
    known = known_capabilities(trt)
    unknown = [capability for capability in wanted if capability not in known]
    if unknown:
        raise NoSuchOptionError(
            f"compute capability {', '.join(unknown)} is unknown to this TensorRT "
            f"({trt.__version__}), which builds for {', '.join(known)}"
        )
    return [known[capability] for capability in wanted]


def _level(trt: Any, wanted: str) -> Any:
    if wanted == "none":
        return None
    known = trt.HardwareCompatibilityLevel.__members__
    if _LEVELS[wanted] not in known:
        raise NoSuchOptionError(
            f"hardware compatibility {wanted} is unknown to this TensorRT ({trt.__version__})"
        )
    return known[_LEVELS[wanted]]


def _flag(trt: Any, name: str) -> Any:
    flag = getattr(trt.BuilderFlag, name, None)
    if flag is None:
        raise NoSuchOptionError(
            f"this TensorRT ({trt.__version__}) strips no engine of its weights (it has no builder "
            f"flag {name})"
        )
    return flag
