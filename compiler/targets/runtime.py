"""Load ONNX Runtime, and a model into it, and say in words why not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.targets.context import FLOAT_ACTIVATIONS
from castline.compiler.targets.last_logits import whole_model
from castline.compiler.targets.unpacked import unpacked
from castline.errors import TargetError
from castline.plugins.catalogue import PACKED_LINEARS

if TYPE_CHECKING:
    import onnxruntime

    from castline.compiler.targets.options import LogitsOf

Logits: TypeAlias = NDArray[np.float32]

PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")
# x86 without VNNI instructions saturates sums of two 8-bit products otherwise. Elsewhere it is left
# out: with it, ONNX Runtime 1.31 gives INT8 weights of a scale a channel a zero-point that it then
# refuses, where DequantizeLinear is not fused.
EXACT_SUMS = ("session.x64quantprecision", "1")
_OF_CODES = (b"MatMulInteger", b"_zero_point_unsigned")  # names in a file that multiplies codes
# ONNX Runtime 1.31 takes a float32 product of E4M3 codes for one of bytes, and then refuses it.
NO_FUSED_CODES = ("session.disable_quant_qdq", "1")
_OF_FLOAT8 = (b"input_float8_zero",)
_OF_PACKED = tuple(op.name.encode() for op in PACKED_LINEARS)
# Of MatMulNBits in the place of DequantizeLinear and MatMul: 1 is float32; INT8 is the default.
FLOAT32_PRODUCTS = ("session.qdq_matmulnbits_accuracy_level", "1")
_OF_FLOAT = (FLOAT_ACTIVATIONS.encode(),)
_CPU = Path("/proc/cpuinfo")
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
LOG_FATAL_ONLY = 4  # what it refuses reaches the caller as an exception, in full
REFUSALS = (
    "EPFail",
    "EngineError",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
)


def onnxruntime_module() -> ModuleType:
    """Return the module `onnxruntime`, or raise TargetError that says how to install it."""
    try:
        import onnxruntime  # noqa: PLC0415 - optional: CPU and CUDA builds exclude each other
    except ImportError as error:
        raise TargetError(
            "ONNX Runtime is not installed. Install it: pip install onnxruntime, or for NVIDIA "
            "GPUs: pip install onnxruntime-gpu."
        ) from error
    return onnxruntime  # type: ignore[no-any-return]


def inference_session(
    model: Path,
    threads: int | None,
    providers: Sequence[str] | None,
    *,
    logits: LogitsOf = "all",
) -> onnxruntime.InferenceSession:
    """Return the model loaded by ONNX Runtime, or raise TargetError with its reason.

    With `logits` "all", a decoder that was cut to its last logits gives all of them again.
    """
    if not model.is_file():
        raise TargetError(
            f"{model} does not exist. Give the output folder of `castline compile` or "
            "`castline export`, or its .onnx file."
        )
    onnxruntime = onnxruntime_module()
    available = onnxruntime.get_available_providers()
    wanted = list(providers or [name for name in PROVIDERS if name in available])
    if missing := [name for name in wanted if name not in available]:
        raise TargetError(
            f"ONNX Runtime here has no {', '.join(missing)}, only {', '.join(available)}. For "
            "NVIDIA GPUs: pip uninstall onnxruntime, then pip install onnxruntime-gpu."
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = LOG_FATAL_ONLY
    options.intra_op_num_threads = threads or 0
    for entry in session_entries(model, saturating=saturates()):
        options.add_session_config_entry(*entry)
    ready = unpacked if _names(model, _OF_PACKED) else nullcontext
    try:
        with ready(model) as file:
            whole = file if logits == "last" else whole_model(file)
            if isinstance(whole, bytes):
                options.add_session_config_entry(_WEIGHTS_FOLDER, str(file.parent))
            return onnxruntime.InferenceSession(
                whole if isinstance(whole, bytes) else str(whole), options, providers=wanted
            )
    except runtime_errors() as error:
        raise TargetError(f"{model}: ONNX Runtime cannot load it: {error}") from error


def session_entries(model: Path, *, saturating: bool) -> tuple[tuple[str, str], ...]:
    """Return the session configuration that a model is to be run with, as key and value.

    `saturating` says that the processor adds products of bytes in 16 bits, as `saturates` tells.
    """
    wanted = (
        (EXACT_SUMS, saturating and _names(model, _OF_CODES)),
        (NO_FUSED_CODES, _names(model, _OF_FLOAT8)),
        (FLOAT32_PRODUCTS, _names(model, _OF_FLOAT)),
    )
    return tuple(entry for entry, needed in wanted if needed)


def saturates(cpu: Path = _CPU) -> bool:
    """Return whether this processor is an x86 that adds products of bytes in 16 bits."""
    try:
        described = cpu.read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux does not tell
        return False
    return "avx" in described and "vnni" not in described


def _names(model: Path, names: tuple[bytes, ...]) -> bool:
    """Return whether an ONNX file has nodes, tensors or metadata that are called so."""
    content = model.read_bytes()
    return any(name in content for name in names)


def runtime_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions by which ONNX Runtime says no; they have no base of their own."""
    state = onnxruntime_module().capi.onnxruntime_pybind11_state
    return (RuntimeError, *(getattr(state, name) for name in REFUSALS))


def float32_from_ortvalue(value: onnxruntime.OrtValue) -> Logits:
    """Return a tensor on the host as float32, without a copy if that is what it is."""
    if value.data_type() == "tensor(bfloat16)":
        import torch  # noqa: PLC0415 - NumPy has no bfloat16, and torch takes seconds to import

        return np.asarray(torch.from_dlpack(value).float().numpy())
    return np.asarray(value.numpy(), dtype=np.float32)
