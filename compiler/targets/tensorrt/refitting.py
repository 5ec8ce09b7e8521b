"""Put weights back into an engine that was stripped of them, inside the builder's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NAMES_SHOWN = 8


class RefitError(Exception):
    """TensorRT cannot load a stripped engine, or take the weights for it."""


def refitted(stripped: Path, model: Path, trt: Any, *, host_code: bool = False) -> bytes:
    """Return the engine of file `stripped` with the weights of the ONNX `model`, serialized.

    `host_code` lets it bring code for the host, as version-compatible engines do. Needs a GPU.
    Raises RefitError; TensorRT's log has the reason.
    """
    from polygraphy.backend.trt.util import get_trt_logger  # noqa: PLC0415 - needs the environment

    logger = get_trt_logger()
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = host_code
    engine = runtime.deserialize_cuda_engine(stripped.read_bytes())
    if engine is None:
        raise RefitError(f"TensorRT {trt.__version__} does not load {stripped.name}")
    refitter = trt.Refitter(engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_file(str(model)):
        told = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise RefitError(f"the weights of {model.name} do not fit: {'; '.join(told)}")
    missing = list(refitter.get_missing_weights())
    if missing:
        raise RefitError(
            f"{len(missing)} weights of the engine are not in {model.name}: "
            f"{', '.join(missing[:NAMES_SHOWN])}"
        )
    if not refitter.refit_cuda_engine():
        raise RefitError(f"the weights of {model.name} were not taken")
    config = engine.create_serialization_config()
    config.clear_flag(trt.SerializationFlag.EXCLUDE_WEIGHTS)
    whole = engine.serialize_with_config(config)
    if whole is None:
        raise RefitError(f"the engine with the weights of {model.name} could not be serialized")
    return bytes(whole)
