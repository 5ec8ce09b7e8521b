"""Build one engine in a process of its own: a JSON job comes in, a JSON outcome goes out.

`build_engine` starts it as `python -m castline.compiler.targets.tensorrt_rtx.child`, in the
environment that `environment.builder_environment` prepares; the job is its standard input and
names the file for the outcome.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from castline.errors import TargetError
from castline.plugins.library import register

PR_SET_PDEATHSIG = 1
PLUGIN_LAYER = "PLUGIN_V3"
NAMES_SHOWN = 8


@dataclass(frozen=True)
class Job:
    """What the child is asked to do; every field is JSON."""

    model: str
    engine: str
    outcome: str  # the file that receives an Outcome
    profiles: list[dict[str, list[list[int]]]]  # input name -> its min, opt and max shape
    compute_capabilities: list[str]
    parent: int
    plugin_library: str = ""  # loaded before the model is parsed, where it has plugin nodes
    plugin_nodes: dict[str, str] = field(default_factory=dict)  # their names -> their ops


@dataclass(frozen=True)
class Outcome:
    """What the child did: it built the engine where the three reasons are empty."""

    declined: str = ""  # the job asks for what this TensorRT does not have
    failed: str = ""  # the parser or the builder gave up; its log says more
    unwritable: str = ""
    version: str = ""
    peak_memory: int = 0  # bytes
    layers: dict[str, int] = field(default_factory=dict)
    plugin_layers: dict[str, int] = field(default_factory=dict)  # op -> layers of the network


class UnknownCapabilityError(Exception):
    """A compute capability that this TensorRT cannot build for."""


class PluginLayersError(Exception):
    """The parser put something else than a plugin in the place of a plugin's node."""


def main() -> None:
    """Read the job, build the engine, write the outcome."""
    job = Job(**json.loads(sys.stdin.read()))
    die_with(job.parent)
    Path(job.outcome).write_text(json.dumps(asdict(_outcome(job))))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends, however it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        sys.exit(1)


def _outcome(job: Job) -> Outcome:
    from polygraphy.exception import PolygraphyException  # noqa: PLC0415 - needs the environment

    try:
        return build(job)
    except UnknownCapabilityError as error:
        return Outcome(declined=str(error))
    except (PluginLayersError, TargetError) as error:
        return Outcome(failed=str(error))
    except PolygraphyException as error:
        return Outcome(failed=str(error))
    except OSError as error:
        return Outcome(unwritable=str(error))


def build(job: Job) -> Outcome:
    """Parse, build and write the engine.

    Raises:
        UnknownCapabilityError: the job names a compute capability that is not known.
        TargetError: the plugin library cannot be loaded.
        PluginLayersError: a plugin's node did not become a plugin layer.
        PolygraphyException: the parser or the builder refused the model; the reasons are logged.
        OSError: the engine cannot be written.
    """
    from polygraphy.backend.trt import (  # noqa: PLC0415 - needs the environment
        CreateConfig,
        EngineBytesFromNetwork,
        NetworkFromOnnxPath,
        PostprocessConfig,
        Profile,
    )
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415
    from polygraphy.mod.trt_importer import lazy_import_trt  # noqa: PLC0415

    G_LOGGER.module_severity = G_LOGGER.VERBOSE  # TensorRT's own information goes into the log
    trt = lazy_import_trt()
    capabilities = _capabilities(trt, job.compute_capabilities)

    def set_capabilities(builder: Any, network: Any, config: Any) -> None:  # noqa: ARG001
        if capabilities:  # none means the default set
            config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)

    profiles = [Profile() for _ in job.profiles]
    for profile, phase in zip(profiles, job.profiles, strict=True):
        for name, shapes in phase.items():
            profile.add(name, *map(tuple, shapes))
    flags = []
    if job.plugin_nodes:
        register(Path(job.plugin_library), trt)
        flags.append(trt.OnnxParserFlag.ENABLE_PLUGIN_OVERRIDE)
    network = NetworkFromOnnxPath(job.model, flags=flags, strongly_typed=True)()
    of_plugins = plugin_layers(network[1], job.plugin_nodes)
    config = PostprocessConfig(CreateConfig(profiles=profiles), set_capabilities)
    Path(job.engine).write_bytes(EngineBytesFromNetwork(network, config)())
    return Outcome(
        version=trt.__version__,
        peak_memory=peak_memory(),
        layers=_layers(network[1]),
        plugin_layers=of_plugins,
    )


def _capabilities(trt: Any, wanted: list[str]) -> list[Any]:
    known = {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    unknown = [capability for capability in wanted if capability not in known]
    if unknown:
        raise UnknownCapabilityError(
            f"compute capability {', '.join(unknown)} is unknown to this TensorRT "
            f"({trt.__version__}), which builds for {', '.join(known)}"
        )
    return [known[capability] for capability in wanted]


def _layers(network: Any) -> dict[str, int]:
    kinds = (network.get_layer(index).type.name for index in range(network.num_layers))
    return dict(sorted(Counter(kinds).items()))


def plugin_layers(network: Any, nodes: dict[str, str]) -> dict[str, int]:
    """Return how many layers of the network each op has; raise where a node is no such layer.

    The parser gives a layer the name of its node, and takes the body of a node without a word
    where it does not find the plugin.
    """
    layers = (network.get_layer(index) for index in range(network.num_layers))
    names = {layer.name for layer in layers if layer.type.name == PLUGIN_LAYER}
    missing = [f"{name} ({op})" for name, op in nodes.items() if name not in names]
    if missing:
        raise PluginLayersError(
            f"{len(missing)} of {len(nodes)} nodes did not become plugin layers: "
            f"{', '.join(missing[:NAMES_SHOWN])}"
        )
    return dict(sorted(Counter(nodes.values()).items()))


def peak_memory() -> int:
    """Return the largest resident size of this process so far, in bytes.

    Linux's ru_maxrss is of no use here: it begins at the size of the process that started us.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("proc(5) promises VmHWM in /proc/self/status")


if __name__ == "__main__":
    main()
