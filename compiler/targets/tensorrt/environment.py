"""Find a TensorRT, prepare the environment of its builder, and say whether engines run here."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from pathlib import Path

from castline.compiler.targets.tensorrt.builder_config import known_capabilities
from castline.compiler.targets.tensorrt.edition import Edition
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.errors import TargetError

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
_ELSEWHERE = (
    "Here --target tensorrt-rtx builds an engine and --target onnx or onnxruntime a model that "
    "runs; castline build OUT --target tensorrt makes TensorRT's engine from a folder of "
    "tensorrt-rtx where there is what it needs."
)


def require_builder(edition: Edition, options: EngineOptions | None = None) -> None:
    """Make sure that the edition is installed and can build with these options on this machine.

    Raises:
        TargetError: it is missing, has no such option, or there is no GPU and it needs one.
    """
    options = options or EngineOptions()
    if refused := edition.refused(options):
        raise TargetError("\n".join(refused))
    _require_cache_folder(options.timing_cache)
    if importlib.util.find_spec(edition.module) is None:
        way = "Everything else works without it." if edition.is_rtx else _ELSEWHERE
        raise TargetError(
            f"the target {edition.name} needs {edition.title}, which is not installed: "
            f"{edition.install}. {way}"
        )
    if options.compute_capabilities:
        _require_capabilities(edition, options.compute_capabilities)
    if edition.is_rtx and not options.strip_weights:
        return
    reason = runnable_here()
    if reason is None:
        return
    if edition.is_rtx:
        raise TargetError(
            f"TensorRT-RTX needs a GPU to strip an engine of its weights, and {reason}. Leave "
            "--strip-weights out, or build where there is a GPU: castline build OUT "
            "--strip-weights."
        )
    raise TargetError(
        f"the target {edition.name} builds on the GPU that the engine is for, and {reason}. "
        f"{_ELSEWHERE}"
    )


def _require_cache_folder(timing_cache: Path | None) -> None:
    if timing_cache is not None and not timing_cache.absolute().parent.is_dir():
        raise TargetError(
            f"--timing-cache {timing_cache}: there is no folder {timing_cache.absolute().parent} "
            "to write it into."
        )


def _require_capabilities(edition: Edition, wanted: tuple[str, ...]) -> None:
    """Raise TargetError for GPUs that the installed edition builds no engines for."""
    tensorrt = importlib.import_module(edition.module)
    known = known_capabilities(tensorrt)
    unknown = [one for one in wanted if one not in known]
    if unknown:
        raise TargetError(
            f"--compute-capability {', '.join(unknown)}: {edition.title} {tensorrt.__version__} "
            f"builds for {', '.join(known)}. Name those of the GPUs that will run the engine."
        )


def builder_environment(links: Path, edition: Edition) -> dict[str, str]:
    """Return the environment of the building process; puts a library link into the folder `links`.

    The ONNX parser opens the library by its bare name to add a plugin, while the wheels ship it
    with a number behind the name; without the link the process is terminated inside `parse`.
    """
    environment = {**os.environ, **edition.environment()}
    library = _wheel_library(edition)
    if library is None:  # an installed SDK: its folder is on the library path already
        return environment
    (links / edition.library).symlink_to(library)
    search = [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(search)
    return environment


def _wheel_library(edition: Edition) -> Path | None:
    found = importlib.util.find_spec(edition.library_module)
    folders = found.submodule_search_locations if found is not None else None
    pattern = f"{edition.library}.*"
    libraries = [file for folder in folders or () for file in Path(folder).glob(pattern)]
    return min(libraries) if libraries else None


def runnable_here() -> str | None:
    """Return why an engine cannot be executed on this machine, or None where it can be tried."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this machine has no NVIDIA driver (libcuda.so.1 is not found)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver of this machine does not start (cuInit returned {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return f"the NVIDIA driver of this machine finds no GPU (cuDeviceGetCount: {status})"
    return None


def device_capability() -> str | None:
    """Return the compute capability of the first GPU, such as "8.9"; None where there is none."""
    if runnable_here() is not None:
        return None
    driver = ctypes.CDLL("libcuda.so.1")
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int(0)
        status = driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, 0)
        if status != 0:
            raise TargetError(
                "the NVIDIA driver does not tell the compute capability of its first GPU "
                f"(cuDeviceGetAttribute returned {status})"
            )
        parts.append(value.value)
    return ".".join(map(str, parts))


def not_executed(reason: str) -> str:
    """Return the sentence that tells a user what was not proved, given `runnable_here`'s reason."""
    return (
        f"The engine was built but not executed, since {reason}; the checks ran the ONNX graph "
        "that was handed to the builder, on ONNX Runtime."
    )
