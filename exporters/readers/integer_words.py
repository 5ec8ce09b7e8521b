"""Check and convert what AWQ and GPTQ store alike: integers in words, zero-points, scales."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.stored import StoredMatrix
from castline.exporters.readers.stored_parts import FLOATS, require_finite
from castline.exporters.readers.tensors import Array, TensorSpec, named

Parts = Mapping[str, str]
"""What a format calls a part -> the name of the stored tensor."""

_CODES = "qweight"
_WORDS = np.dtype(np.int32)


def modules_with_codes(
    tensors: Mapping[str, TensorSpec], parts: tuple[str, ...], problems: list[str]
) -> Iterator[tuple[str, Parts]]:
    """Yield every module with a qweight, and the names of those of `parts` that it has.

    A module without one of qweight, qzeros and scales, or with one of another kind than a matrix of
    words or floats, is added to the problems instead.
    """
    modules = [name.removesuffix(f".{_CODES}") for name in tensors if name.endswith(f".{_CODES}")]
    for module in modules:
        present = {part: f"{module}.{part}" for part in parts if f"{module}.{part}" in tensors}
        found = list(_unlike(module, present, tensors))
        problems.extend(found)
        if not found:
            yield module, present


def _unlike(module: str, present: Parts, tensors: Mapping[str, TensorSpec]) -> Iterator[str]:
    for part in (_CODES, "qzeros", "scales"):
        name = f"{module}.{part}"
        if part not in present:
            yield f"{name} is absent"
            continue
        spec = tensors[name]
        kinds = FLOATS if part == "scales" else (_WORDS,)
        if spec.dtype not in kinds or len(spec.shape) != 2:
            expected = " or ".join(map(str, kinds))
            yield f"{name} is {spec.dtype} {list(spec.shape)}, expected a matrix of {expected}"


def misshapen(
    parts: Parts, expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, TensorSpec]
) -> list[str]:
    """Return a problem for each part whose shape does not follow from qweight's and the groups."""
    found = {part: tensors[name].shape for part, name in parts.items()}
    beside = f"beside {parts[_CODES]} {list(found[_CODES])}"
    return [
        f"{parts[part]} is {list(found[part])}, expected {list(shape)} {beside}"
        for part, shape in expected.items()
        if part in found and found[part] != shape
    ]


def integer_matrix(
    parts: Parts, codes: Array, scales: Array, zeros: Array, *, bits: int, symmetric: bool
) -> StoredMatrix:
    """Return the matrix of unsigned codes [N, K], with scales and zero-points [N, groups].

    A symmetric one gets signed codes. Raises CheckpointError for scales that are NaN or Inf, and
    for zero-points of a symmetric one that are not in the middle.
    """
    require_finite(parts["scales"], scales)
    if not symmetric:
        return StoredMatrix(codes, scales, zeros)
    middle = 1 << (bits - 1)
    if wrong := np.count_nonzero(zeros != middle):
        raise CheckpointError(
            f"{parts['qzeros']} holds {wrong} of {zeros.size} zero-points that are not {middle}, "
            "and the configuration says that the weights are symmetric. "
            "Get config.json and the weights again, both from one export."
        )
    # Modulo 256 the difference of unsigned bytes is that of signed ones.
    return StoredMatrix((codes - np.uint8(middle)).view(np.int8), scales)


def named_problem(said: str, modules: list[str]) -> list[str]:
    """Return one problem for modules that share it, none without modules."""
    return [f"{said}: {named(modules)}"] if modules else []
