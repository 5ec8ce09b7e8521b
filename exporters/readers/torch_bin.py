"""Read PyTorch .bin files as data: nothing a pickle asks for is ever executed."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.mapped import file_size
from castline.exporters.readers.tensors import Array, TensorSpec, refuse

# By name: the dtypes themselves would need torch, whose import other formats do without.
_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.float64": np.dtype(np.float64),
    "torch.float32": np.dtype(np.float32),
    "torch.float16": np.dtype(np.float16),
    "torch.bfloat16": np.dtype(ml_dtypes.bfloat16),
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "torch.int64": np.dtype(np.int64),
    "torch.int32": np.dtype(np.int32),
    "torch.int16": np.dtype(np.int16),
    "torch.int8": np.dtype(np.int8),
    "torch.uint8": np.dtype(np.uint8),
    "torch.bool": np.dtype(np.bool_),
}
# What torch.load raises on bytes that are no checkpoint: its unpickler checks little by itself.
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, KeyError,
    IndexError, AttributeError, AssertionError, struct.error, zipfile.BadZipFile,
)  # fmt: skip


class TorchBinReader:
    """The tensors of one or several files written by torch.save, a state dict in each.

    Files are mapped, so a tensor that is read takes memory once and its neighbours take none. A
    file from before torch 1.6 cannot be mapped and stays in memory whole.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        """List the tensors. Raises CheckpointError for a file that is no safe state dict."""
        self.files = tuple(files)
        self.tensors: dict[str, TensorSpec] = {}
        self._sizes = {path: file_size(path) for path in self.files}
        self._file_of: dict[str, Path] = {}
        self._old: dict[Path, dict[str, Any]] = {}
        for path in self.files:
            self._open(path)

    def read(self, name: str) -> Array:
        """Return the tensor, mapped from its file."""
        path = self._file_of[name]
        if file_size(path) != self._sizes[path]:
            raise CheckpointError(f"{path} changed since it was opened. Start again.")
        # Loading again costs milliseconds; a state dict kept open would keep all read pages alive.
        tensors = self._old.get(path) or _state_dict(path)
        return _array(tensors[name])

    def file_of(self, name: str) -> Path:
        """Return the file that holds the tensor."""
        return self._file_of[name]

    def _open(self, path: Path) -> None:
        tensors = _state_dict(path)
        for name, tensor in tensors.items():
            if name in self._file_of:
                raise CheckpointError(
                    f"{path} and {self._file_of[name]} both hold the tensor {name}. "
                    "Remove the file that does not belong to the checkpoint."
                )
            self.tensors[name] = TensorSpec(tuple(tensor.shape), _DTYPES[str(tensor.dtype)])
            self._file_of[name] = path
        if not zipfile.is_zipfile(path):
            self._old[path] = tensors


def _state_dict(path: Path) -> dict[str, Any]:
    """Return the tensors of a file by name, on the CPU, mapped where the file allows it."""
    import torch  # noqa: PLC0415 - a second of import that other formats do without

    try:
        content = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} cannot be read as weights: {_first_line(error)} Castline reads tensors from a "
            ".bin file and never runs what else its pickle may ask for. Convert it to safetensors "
            "where you trust it: model.save_pretrained(folder)."
        ) from error
    refuse(
        path, _unusable(content), "Save the model's own state dict: model.save_pretrained(folder)."
    )
    return dict(content)


def _unusable(content: object) -> list[str]:
    """Return what in a loaded file is no plain tensor under a name."""
    import torch  # noqa: PLC0415 - as above

    if not isinstance(content, dict):
        return [f"it holds a {type(content).__name__}, not a table of tensors"]
    problems = []
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            problems.append(f"{name} is a {type(tensor).__name__}, not a tensor")
        elif str(tensor.dtype) not in _DTYPES or tensor.layout != torch.strided:
            problems.append(
                f"{name} is {tensor.dtype} in {tensor.layout} layout, which is not read"
            )
    return problems


def _array(tensor: Any) -> Array:
    """Return a torch tensor as a numpy array of the same bytes."""
    dtype = _DTYPES[str(tensor.dtype)]
    plain = tensor.detach().contiguous()
    if dtype.isbuiltin == 1:
        array: Array = plain.numpy()
        return array
    # Torch hands over only numpy's own dtypes, so bfloat16 and float8 travel as integers.
    import torch  # noqa: PLC0415 - as above

    carrier = torch.int16 if dtype.itemsize == 2 else torch.int8
    carried: Array = plain.view(carrier).numpy()
    return carried.view(dtype)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{(text[0] if text else type(error).__name__).rstrip('.')}."
