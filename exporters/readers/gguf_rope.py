"""Recover from a GGUF file how its model turns positions into rotary angles."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.gguf_header import GgufHeader, Value
from castline.exporters.readers.tensors import Array

FACTORS = "rope_freqs.weight"  # follows from the configuration, so is no weight of the model

_BASE = 10000.0  # what llama.cpp takes where the file states none
# Llama 3.1 to 3.3 all have these three; a GGUF file holds only the factors that follow from them.
_LOW, _HIGH, _TRAINED = 1.0, 4.0, 8192
_SCALINGS = ("linear", "yarn")


def rope_parameters(header: GgufHeader, head_size: int, factors: Array | None) -> dict[str, Any]:
    """Return `rope_parameters` as Hugging Face's configurations hold them.

    `factors`, shape [head_size / 2], are the divisors of the frequencies that a file of Llama 3.1
    or later holds as rope_freqs.weight; None without it. Raises CheckpointError for a scaling that
    has no exact counterpart.
    """
    prefix = header.metadata["general.architecture"]
    base = _number(header, f"{prefix}.rope.freq_base", _BASE)
    turned = header.metadata.get(f"{prefix}.rope.dimension_count", head_size)
    if turned != head_size:
        raise CheckpointError(
            f"{header.path} turns {turned} of {head_size} dimensions of a head "
            f"({prefix}.rope.dimension_count); turning a part is not read from GGUF yet. "
            "Use the model's Hugging Face folder instead."
        )
    if factors is not None:
        return {"rope_theta": base} | _llama3(header, base, factors)
    return {"rope_theta": base} | _scaling(header, str(prefix))


def llama3_factors(base: float, head_size: int, factor: float) -> Array:
    """Return what Llama 3.1 divides each rotary frequency by, shape [head_size / 2].

    Source: `Llama3_RopeScaling`'s rule in https://github.com/meta-llama/llama-models, which leaves
    short waves alone, divides long ones by `factor`, and blends in between.
    """
    waves = 2 * math.pi * base ** (np.arange(0, head_size, 2, dtype=np.float64) / head_size)
    kept = np.clip((_TRAINED / waves - _LOW) / (_HIGH - _LOW), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - kept) / factor + kept))


def _llama3(header: GgufHeader, base: float, factors: Array) -> dict[str, Any]:
    factor = float(factors.max(initial=1.0))
    expected = llama3_factors(base, 2 * factors.size, factor)
    # The file holds float32, and factors are small whole numbers or blends of them.
    if not np.allclose(factors, expected, rtol=1e-4):
        raise CheckpointError(
            f"{header.path}: {FACTORS} does not follow Llama 3.1's rule, so the configuration "
            "cannot be recovered from it. Use the model's Hugging Face folder instead."
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": _LOW,
        "high_freq_factor": _HIGH,
        "original_max_position_embeddings": _TRAINED,
    }


def _scaling(header: GgufHeader, prefix: str) -> dict[str, Any]:
    kind = header.metadata.get(f"{prefix}.rope.scaling.type", "none")
    if kind == "none":
        return {"rope_type": "default"}
    if kind not in _SCALINGS:
        raise CheckpointError(
            f"{header.path} scales positions by {kind} ({prefix}.rope.scaling.type); "
            f"none, {' and '.join(_SCALINGS)} are read. Use the model's Hugging Face folder."
        )
    scaling = {"rope_type": kind, "factor": _number(header, f"{prefix}.rope.scaling.factor", None)}
    if kind == "yarn":
        trained = _number(header, f"{prefix}.rope.scaling.original_context_length", None)
        scaling["original_max_position_embeddings"] = int(trained)
    return scaling


def _number(header: GgufHeader, key: str, default: float | None) -> float:
    value: Value | None = header.metadata.get(key, default)
    if isinstance(value, int | float) and value > 0:
        return float(value)
    raise CheckpointError(
        f"{header.path} must state a positive number for {key}. Download or convert the file again."
    )
