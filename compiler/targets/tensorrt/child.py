"""Build one engine in a process of its own: a JSON job comes in, a JSON outcome goes out.

`build_engine` starts it as `python -m castline.compiler.targets.tensorrt.child`, in the
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from castline.compiler.targets.tensorrt.builder_config import (
    NoSuchOptionError,
    builder_config,
    network_from,
)
from castline.compiler.targets.tensorrt.job import Job, Outcome
from castline.compiler.targets.tensorrt.refitting import RefitError, refitted
from castline.errors import TargetError
from castline.plugins.library import register

PR_SET_PDEATHSIG = 1
PLUGIN_LAYER = "PLUGIN_V3"
NAMES_SHOWN = 8


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
        return refit(job) if job.refit else build(job)
    except NoSuchOptionError as error:
        return Outcome(declined=str(error))
    except (PluginLayersError, RefitError, TargetError, PolygraphyException) as error:
        return Outcome(failed=str(error))
    except OSError as error:
        return Outcome(unwritable=str(error))


def build(job: Job) -> Outcome:
    """Parse, build and write the engine.

    Raises:
        NoSuchOptionError: the job asks for what this TensorRT does not have.
        TargetError: the plugin library cannot be loaded.
        PluginLayersError: a plugin's node did not become a plugin layer.
        PolygraphyException: the parser or the builder refused the model; the reasons are logged.
        OSError: the engine or the timing cache cannot be written.
    """
    from polygraphy.backend.trt import EngineBytesFromNetwork  # noqa: PLC0415 - needs it, too

    trt = _tensorrt()
    config = builder_config(job, trt)
    if job.plugin_library:
        register(Path(job.plugin_library), trt)
    network = network_from(job, trt)
    of_plugins = plugin_layers(network[1], job.plugin_nodes)
    cache = job.timing_cache or None
    engine = EngineBytesFromNetwork(network, config, save_timing_cache=cache)()
    Path(job.engine).write_bytes(engine)
    return Outcome(
        version=trt.__version__,
        peak_memory=peak_memory(),
        layers=_layers(network[1]),
        plugin_layers=of_plugins,
    )


def refit(job: Job) -> Outcome:
    """Put the weights of the model into an engine that was stripped of them, and write it.

    Raises:
        TargetError: the plugin library cannot be loaded.
        RefitError: TensorRT cannot load the engine, or take the weights.
        OSError: the engine cannot be written.
    """
    trt = _tensorrt()
    if job.plugin_library:
        register(Path(job.plugin_library), trt)
    whole = refitted(Path(job.refit), Path(job.model), trt, host_code=job.version_compatible)
    Path(job.engine).write_bytes(whole)
    return Outcome(version=trt.__version__, peak_memory=peak_memory())


def _tensorrt() -> Any:
    """Import the TensorRT that the environment names; its information goes into the log."""
    from polygraphy.logger import G_LOGGER  # noqa: PLC0415
    from polygraphy.mod.trt_importer import lazy_import_trt  # noqa: PLC0415

    G_LOGGER.module_severity = G_LOGGER.VERBOSE
    return lazy_import_trt()


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
