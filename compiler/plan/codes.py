"""Keep the codes of a block's weights in a file, and read one linear's when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from castline.compiler.plan.decisions import PlannedBlock
from castline.compiler.quant.arrays import Array
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.packing import halves, packed_halves
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import WeightScheme
from castline.errors import OutputError

CODES = "codes.safetensors"
"""How the names of such files end."""


def encoded_codes(codes: Mapping[str, GivenCodes]) -> dict[str, Array]:
    """Return arrays by names such as "model.layers.0.mlp.up_proj.weight:0:codes".

    The number is the expert's, 0 where there is one matrix. Codes of 4 bits and fewer are stored
    two in a byte, uint8 [K, ceil(N / 2)], the even one of N in the low half.
    """
    arrays: dict[str, Array] = {}
    for name, given in codes.items():
        for expert, matrix in enumerate(given.matrices()):
            assert matrix.scales.shape[-1] == matrix.codes.shape[-1], (
                "search has no scale per tensor"
            )
            held = matrix.codes.view(np.uint8)
            parts = {
                "codes": packed_halves(held) if given.scheme.storage_bits == 4 else held,
                "scales": matrix.scales,
                "zero_points": matrix.zero_points,
            }
            for part, array in parts.items():
                if array is not None:
                    arrays[f"{name}:{expert}:{part}"] = np.ascontiguousarray(array)
    return arrays


def stored_codes(path: Path, block: PlannedBlock) -> dict[str, GivenCodes]:
    """Return the codes in the file of a block, each linear's read when it is asked for.

    Raises ValueError for codes that are not the block's or not whole, SafetensorError for what is
    no such file; a file that is gone when codes are asked for is an OutputError.
    """
    with safe_open(path, framework="numpy") as file:
        keys = set(file.keys())
    matrices: dict[str, int] = {}
    for key in keys:
        name, expert, _part = key.rsplit(":", 2)
        matrices[name] = max(matrices.get(name, 0), int(expert) + 1)
    schemes = {linear.name: linear.weights for linear in block.linears}
    found = {}
    for name, count in matrices.items():
        scheme = schemes.get(name)
        if scheme is None:
            raise ValueError(f"codes of {name}, which the block does not quantize")
        wanted = {f"{name}:{expert}:{part}" for expert in range(count) for part in _parts(scheme)}
        if wanted != {key for key in keys if key.rsplit(":", 2)[0] == name}:
            raise ValueError(f"the codes of {name} are not whole, or not of its scheme")
        found[name] = GivenCodes(scheme, partial(_matrices, path, name, count, scheme))
    return found


def _parts(scheme: WeightScheme) -> tuple[str, ...]:
    return ("codes", "scales") if scheme.symmetric else ("codes", "scales", "zero_points")


def _matrices(
    path: Path, name: str, count: int, scheme: WeightScheme
) -> tuple[QuantizedMatrix, ...]:
    try:
        with safe_open(path, framework="numpy") as file:
            read = file.get_tensor
            return tuple(_matrix(read, f"{name}:{expert}", scheme) for expert in range(count))
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"{path}: was changed or removed since the plan was opened: {error}. Give the command "
            "again, with the plan as castline quantize wrote it."
        ) from error


def _matrix(read: Callable[[str], Array], prefix: str, scheme: WeightScheme) -> QuantizedMatrix:
    codes, scales, *zeros = (read(f"{prefix}:{part}") for part in _parts(scheme))
    if scheme.storage_bits == 4:
        codes = halves(codes, scales.shape[-1], signed=scheme.symmetric)
    elif scheme.symmetric:
        codes = codes.view(np.int8)
    return QuantizedMatrix(codes, scales, *zeros or (None,))
