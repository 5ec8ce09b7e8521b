"""Find the weight files of a Hugging Face folder: one file, or shards under an index."""

from __future__ import annotations

import json
from pathlib import Path

from castline.errors import CheckpointError
from castline.exporters.readers.mapped import opened
from castline.exporters.readers.safetensors_files import SafetensorsReader
from castline.exporters.readers.tensors import TensorReader, named
from castline.exporters.readers.torch_bin import TorchBinReader

# In the order in which transformers looks for them.
_FORMATS = (("model.safetensors", SafetensorsReader), ("pytorch_model.bin", TorchBinReader))
_INDEX = ".index.json"
_POINTER = b"version https://git-lfs"  # how the stand-in begins that git leaves for a large file


def open_weights(folder: Path) -> TensorReader:
    """Return the reader of the weights in a folder, safetensors before .bin.

    Raises CheckpointError when there are none, when the index names files or tensors that are not
    there, and for whatever the reader of the format refuses.
    """
    for name, reader in _FORMATS:
        if (folder / name).is_file():
            return reader(_downloaded([folder / name]))
        index = folder / f"{name}{_INDEX}"
        if index.is_file():
            weights = reader(_downloaded(_shards(index)))
            _refuse_promises(index, weights)
            return weights
    looked_for = [candidate for name, _ in _FORMATS for candidate in (name, name + _INDEX)]
    raise CheckpointError(
        f"{folder} holds no weights: it needs one of {', '.join(looked_for)}. "
        "Download the checkpoint again, weights included."
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Return which file each tensor is in, as the index says."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{index} is not JSON: {error}. Download it again.") from error
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise CheckpointError(
            f"{index} has no weight_map from tensors to files. Download it again."
        )
    outside = [
        name
        for name in map(str, table.values())
        if name in ("", ".", "..") or Path(name).name != name
    ]
    if outside:
        raise CheckpointError(
            f"{index} must name files beside it, and names {named(sorted(set(outside)))}. "
            "Download it again from where you trust it."
        )
    return {tensor: str(name) for tensor, name in table.items()}


def _shards(index: Path) -> list[Path]:
    """Return the files that the index names, in name order; all that are absent in one error."""
    shards = [index.parent / name for name in sorted(set(_weight_map(index).values()))]
    absent = [shard.name for shard in shards if not shard.is_file()]
    if absent:
        raise CheckpointError(
            f"{index} names {len(absent)} of {len(shards)} files that are not there: "
            f"{named(absent)}. Finish the download."
        )
    return shards


def _refuse_promises(index: Path, weights: TensorReader) -> None:
    """Refuse an index that places tensors in files which do not hold them."""
    broken = [
        f"{tensor} in {name}"
        for tensor, name in _weight_map(index).items()
        if tensor not in weights.tensors or weights.file_of(tensor).name != name
    ]
    if broken:
        raise CheckpointError(
            f"{index} does not fit its files, which lack {named(broken)}. Download all again."
        )


def _downloaded(files: list[Path]) -> list[Path]:
    """Return the files, refusing stand-ins that git left where it did not fetch the content."""
    pointers = []
    for path in files:
        with opened(path) as file:
            if file.read(len(_POINTER)) == _POINTER:
                pointers.append(path.name)
    if pointers:
        raise CheckpointError(
            f"{files[0].parent} holds pointers of Git LFS in place of {named(pointers)}. "
            "Fetch the files: git lfs pull."
        )
    return files
