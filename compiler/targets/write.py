"""Write a model whose weights are promises: each is read, written and let go, in graph order."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import onnx
import onnx_ir as ir

from castline.errors import OutputError
from castline.progress import Progress, SilentProgress

MODEL = "model.onnx"
DATA = "model.onnx.data"
INLINE = 1024  # bytes up to which a tensor stays in the model file
_ALIGNMENT = 4096  # a page, so that a runtime can map every tensor
_WRITABLE = (ir.Tensor, ir.LazyTensor, ir.ExternalTensor, ir.PackedTensor)
_ADVICE = "Make room or choose another output folder."
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "no larger file is allowed (ulimit -f, or the file system)",
}


def write_model(model: ir.Model, folder: Path, progress: Progress | None = None) -> Path:
    """Write model.onnx and model.onnx.data into `folder`, and return the path of the first.

    Peak memory is that of the largest tensor. The model's initializers refer to the written file
    afterwards. Raises OutputError when the disk is full or cannot be written.
    """
    progress = progress or SilentProgress()
    large = {
        value: value.const_value
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > INLINE
    }
    total = sum(_padded(tensor.nbytes) for tensor in large.values())
    with disk_errors(folder, total, _ADVICE):
        _require_room(folder, total)
        with (
            progress.stage("Writing weights", total, "B") as advance,
            (folder / DATA).open("wb", buffering=0) as file,
        ):
            for value, tensor in large.items():
                value.const_value = append_tensor(file, str(value.name), tensor, folder)
                advance(_padded(tensor.nbytes))
        _read_small(model)
        onnx.save(ir.to_proto(model), folder / MODEL)
    return folder / MODEL


def append_tensor(
    file: FileIO, name: str, tensor: ir.TensorProtocol, folder: Path
) -> ir.ExternalTensor:
    """Write one tensor at the end of folder / DATA, padded to a page; return where it is."""
    assert isinstance(tensor, _WRITABLE), "initializers are in memory, promised or in a file"
    begin = file.tell()
    try:
        tensor.tofile(file)
    except OSError as error:
        if error.errno is None:  # numpy does not tell the reason: a write of our own does
            file.write(b"\0" * _ALIGNMENT)
        raise
    size = file.tell() - begin
    assert size == tensor.nbytes, f"{name}: promised {tensor.nbytes} bytes, wrote {size}"
    file.write(b"\0" * (_padded(size) - size))
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor(
        DATA, begin, size, tensor.dtype, shape=shape, name=name, base_dir=folder
    )


def _read_small(model: ir.Model) -> None:
    """Keep the promises that go into the model file.

    Serialization would wrap what reading one raises, such as an error about the checkpoint, into an
    error of its own.
    """
    for value in model.graph.initializers.values():
        promise = value.const_value
        if isinstance(promise, ir.LazyTensor):
            value.const_value = promise.raw()


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


@contextmanager
def disk_errors(folder: Path, needed: int, advice: str) -> Iterator[None]:
    """Raise OutputError for a `folder` that cannot be written, or has no room for `needed` bytes.

    `advice` says what to do about the latter.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            reason = _FULL[error.errno]
            raise OutputError(_too_small(folder, needed, reason, advice)) from error
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error}).") from error


def _require_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(_too_small(folder, needed, f"{free / 1e6:.0f} MB are free", _ADVICE))


def _too_small(folder: Path, needed: int, reason: str, advice: str) -> str:
    return f"{folder}: the weights need {needed / 1e6:.1f} MB, and {reason}. {advice}"
