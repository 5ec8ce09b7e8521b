"""Write a model whose weights are promises: each is read, written and let go, in graph order."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import onnx
import onnx_ir as ir

from castline.errors import OutputError
from castline.progress import Progress, SilentProgress

MODEL = "model.onnx"
DATA = "model.onnx.data"
_ALIGNMENT = 4096  # a page, so that a runtime can map every tensor
_INLINE = 1024  # bytes up to which a tensor stays in the model file


def write_model(model: ir.Model, folder: Path, progress: Progress | None = None) -> Path:
    """Write model.onnx and model.onnx.data into `folder`, and return the path of the first.

    Peak memory is that of the largest tensor. The model's initializers refer to the written file
    afterwards. Raises OutputError when the disk is full or cannot be written.
    """
    progress = progress or SilentProgress()
    large = [
        value
        for value in model.graph.initializers.values()
        if value.const_value is not None and value.const_value.nbytes > _INLINE
    ]
    total = sum(_padded(value.const_value.nbytes) for value in large if value.const_value)
    path = folder / MODEL
    try:
        free = shutil.disk_usage(folder).free
        if free < total:
            raise OutputError(_full(folder, total, free))
        with (
            progress.stage("Writing weights", total, "B") as advance,
            (folder / DATA).open("wb") as f,
        ):
            offset = 0
            for value in large:
                tensor = value.const_value
                assert tensor is not None, "large initializers were chosen for having a tensor"
                data = tensor.tobytes()
                f.write(data)
                f.write(b"\0" * (_padded(len(data)) - len(data)))
                value.const_value = ir.ExternalTensor(
                    DATA, offset, len(data), tensor.dtype, shape=tensor.shape, name=value.name or "",
                    base_dir=folder,
                )  # fmt: skip
                offset += _padded(len(data))
                advance(_padded(len(data)))
        onnx.save(ir.to_proto(model), path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise OutputError(_full(folder, total, 0)) from error
        raise OutputError(f"{folder}: cannot be written ({error.strerror}).") from error
    return path


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _full(folder: Path, needed: int, free: int) -> str:
    return (
        f"{folder}: the weights need {needed / 1e6:.0f} MB, and the disk has {free / 1e6:.0f} MB "
        "left. Free some space or choose another output folder."
    )
