"""Choose what runs an output folder, and load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from castline.compiler.package.engine_identity import engine_identity, require_runnable
from castline.compiler.package.engine_plugins import load_engine_plugins
from castline.compiler.package.manifest import read_manifest
from castline.compiler.targets.genai_session import CONFIG, GenaiSession
from castline.compiler.targets.generation import Runner
from castline.compiler.targets.session import DecoderSession, run_config
from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.tensorrt.edition import edition_named
from castline.compiler.targets.tensorrt.engine import tensorrt_module
from castline.compiler.targets.tensorrt.engine_session import EngineSession
from castline.compiler.targets.tensorrt.environment import runnable_here
from castline.compiler.targets.write import MODEL
from castline.errors import TargetError

Runtime: TypeAlias = Literal["auto", "onnxruntime", "genai", "engine"]

_ENGINE = ".engine"


def open_runner(
    path: Path, runtime: Runtime = "auto", *, threads: int | None = None, cuda_graph: bool = True
) -> Runner:
    """Load an output folder, or a file of one, for generating text.

    "auto" takes the engine of a folder that has one; onnxruntime-genai for a folder that is made
    for one of its GPU providers; else ONNX Runtime. `threads` are those of one operator on the CPU;
    `cuda_graph` replays the decoding steps of engines where their shapes stay the same.

    Raises:
        TargetError: the runtime, the GPU or its driver is missing, or refuses the model; says what
            runs it all the same.
        OutputError: the folder is not as it was written.
    """
    chosen = _chosen(path) if runtime == "auto" else runtime
    if chosen == "engine":
        return open_engine(_folder(path), cuda_graph=cuda_graph)
    if chosen == "genai":
        return GenaiSession.open(_folder(path), threads=threads)
    return DecoderSession.open(path, threads=threads, logits="last")


def open_engine(folder: Path, *, batch: int = 1, cuda_graph: bool = True) -> EngineSession:
    """Load the engine of an output folder on the first GPU, for `batch` sequences at a time.

    Raises as `open_runner`.
    """
    try:
        return _engine(folder, batch, cuda_graph=cuda_graph)
    except TargetError as error:
        if not (folder / MODEL).is_file():
            raise
        raise TargetError(
            f"{error}\nThe graph it was built from runs on the CPU: castline generate {folder} "
            "PROMPT --runtime onnxruntime."
        ) from error


def _engine(folder: Path, batch: int, *, cuda_graph: bool) -> EngineSession:
    identity = engine_identity(folder)
    if reason := runnable_here():
        raise TargetError(
            f"{identity.path}: is an engine of {identity.title}, which needs an NVIDIA GPU, and "
            f"{reason}. Run it where there is one."
        )
    _require_weights(folder, identity.path)
    tensorrt = tensorrt_module(edition_named(identity.edition))
    cuda = Cuda.open()
    require_runnable(folder, tensorrt, cuda.compute_capability)
    load_engine_plugins(folder, tensorrt)
    return EngineSession.open(
        identity.path,
        tensorrt,
        cuda=cuda,
        batch=batch,
        context_length=run_config(folder).context_length,
        cuda_graph=cuda_graph,
        host_code=identity.version_compatible,
    )


def _require_weights(folder: Path, engine: Path) -> None:
    """Raise TargetError for an engine that was stripped of its weights: it would compute noise."""
    build = read_manifest(folder).get("build")
    if isinstance(build, Mapping) and build.get("weights_stripped") is True:
        raise TargetError(
            f"{engine}: was stripped of its weights. Put them back: castline build {folder} "
            f"--refit -o {folder}-whole."
        )


def _chosen(path: Path) -> Runtime:
    if path.suffix == _ENGINE or (path.is_dir() and any(path.glob(f"*{_ENGINE}"))):
        return "engine"
    return "genai" if path.is_dir() and _providers(path / CONFIG) else "onnxruntime"


def _providers(config: Path) -> bool:
    """Return whether a genai_config.json names execution providers; on CPUs it names none."""
    if not config.is_file():
        return False
    try:
        decoder = json.loads(config.read_text(encoding="utf-8"))["model"]["decoder"]
        return bool(decoder["session_options"]["provider_options"])
    except (ValueError, KeyError, TypeError):
        return False  # ONNX Runtime's session says what is wrong with it


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent
