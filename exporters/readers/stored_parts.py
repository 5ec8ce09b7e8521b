"""Check the parts that every format stores a quantized linear in: scales, codes, leftovers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping

import ml_dtypes
import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.tensors import (
    BFLOAT16,
    Array,
    TensorSpec,
    named,
    non_finite_count,
)

FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32))
CODES = (FLOAT8, np.dtype(ml_dtypes.float8_e5m2), np.dtype(np.int8), np.dtype(np.uint8))
"""What holds codes, and never a weight in float."""

_WEIGHT = ".weight"
_CACHE_SCALE = re.compile(
    r".+\.([qkv]_(scale|zero_point)|[kv]_proj\.([kv]_(scale|bias)|output_(scale|zero_point)))"
)
_CACHE_REASON = "a scale of the quantized key-value cache, which the compiled model does not have"


def module_of(name: str) -> str:
    """Return the module that a stored tensor belongs to."""
    return name.rpartition(".")[0]


def require_finite(name: str, array: Array) -> Array:
    """Return the array; CheckpointError when it holds NaN or Inf."""
    if count := non_finite_count(np.ascontiguousarray(array)):
        raise CheckpointError(
            f"{name} holds {count} of {array.size} values that are NaN or Inf. Nothing sound can "
            "be compiled from them; get the checkpoint again."
        )
    return array


def require_float(name: str, spec: TensorSpec) -> None:
    """Raise CheckpointError unless the tensor is float16, bfloat16 or float32."""
    if spec.dtype not in FLOATS:
        raise CheckpointError(f"{name} is {spec.dtype}, expected {named(map(str, FLOATS))}")


def positive_number(name: str, array: Array) -> float:
    """Return the one number that a tensor holds; CheckpointError unless finite and above zero."""
    value = float(array.reshape(-1)[0])
    if not 0 < value < float("inf"):
        raise CheckpointError(
            f"{name} is {value}, expected a finite scale above zero. Get the checkpoint again."
        )
    return value


def cache_scales(tensors: Iterable[str]) -> dict[str, str]:
    """Return the stored tensors that belong to a quantized key-value cache, and why they stay."""
    return {name: _CACHE_REASON for name in tensors if _CACHE_SCALE.fullmatch(name)}


def left_in_float(
    tensors: Mapping[str, TensorSpec], quantized: Collection[str], expected: Callable[[str], bool]
) -> list[str]:
    """Return a problem for each weight in float that the configuration holds for quantized.

    A name alone does not tell a linear from an embedding. So `expected`, which is asked by module,
    counts only where the same weight of another layer is among the `quantized` ones.
    """
    twins = {_unnumbered(name) for name in quantized}
    return [
        f"{name} is {spec.dtype}, and the configuration has it quantized, as it is in other layers"
        for name, spec in tensors.items()
        if name.endswith(_WEIGHT) and name not in quantized and spec.dtype not in CODES
        if len(spec.shape) == 2 and _unnumbered(name) in twins and expected(module_of(name))
    ]


def unclaimed_codes(tensors: Mapping[str, TensorSpec], parts: Collection[str]) -> list[str]:
    """Return a problem for each weight of codes that is part of no quantized linear."""
    return [
        f"{name} is {spec.dtype}, and no scales of its own say what it stands for"
        for name, spec in tensors.items()
        if name.endswith(_WEIGHT) and spec.dtype in CODES and name not in parts
    ]


def refuse_contradictions(format_name: str, problems: list[str]) -> None:
    """Raise one CheckpointError that tells every contradiction; return when there is none."""
    if problems:
        raise CheckpointError(
            f"The tensors contradict their {format_name} configuration: "
            f"{'; '.join(problems[:10])}"
            + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
            + ". Get config.json and the weights again, both from one export."
        )


def _unnumbered(name: str) -> str:
    return re.sub(r"\.\d+\.", ".*.", name)
