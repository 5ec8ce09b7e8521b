"""Read linears as GPTQ's tools store them: AutoGPTQ, GPTQModel and those that follow them.

Codes are a stream of bits, lowest first, down the columns of [K, N]; so words hold 16, 8 or 4 codes
of 2, 4 or 8 bits, and 32 codes of 3 bits fill three words. Zero-points lie so along N:

    qweight  int32 [K * bits / 32, N]
    qzeros   int32 [G, N * bits / 32]   each zero-point less one; as it is in gptq_v2
    scales   float [G, N]
    g_idx    int32 [K]                  the group of each column; K // group_size where absent

Source: QuantLinear of AutoGPTQ 0.7.1 (`qlinear_cuda_old`), PackableQuantLinear of GPTQModel 7.7.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from castline.errors import CheckpointError
from castline.exporters.readers.gptq_settings import GptqSettings, GptqSettingsByModule
from castline.exporters.readers.integer_words import (
    Parts,
    integer_matrix,
    misshapen,
    modules_with_codes,
    named_problem,
)
from castline.exporters.readers.packed_words import unpacked
from castline.exporters.readers.quantization_fields import PER_CHANNEL, QuantizationFields
from castline.exporters.readers.stored import Read, StoredLinear, StoredMatrix, StoredScheme
from castline.exporters.readers.stored_groups import (
    group_count,
    group_within,
    order_of_groups,
    repeated,
)
from castline.exporters.readers.stored_parts import refuse_contradictions
from castline.exporters.readers.tensors import Array, TensorSpec

_WORD = 32  # bits
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class Gptq:
    """The linears of a checkpoint by GPTQ, as its configuration describes them."""

    settings: GptqSettingsByModule
    zeros_less_one: bool
    """Whether zero-points are stored less one, as all but gptq_v2 does."""

    @property
    def name(self) -> str:
        """What its users call it."""
        return "GPTQ" if self.zeros_less_one else "GPTQ v2"

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Gptq:
        """Return the format that a quantization_config describes.

        Raises CheckpointError for a field that cannot be, and for layouts that are not read.
        """
        fields = QuantizationFields(values)
        layout = fields.word(("checkpoint_format", "format"), "gptq")
        if fields.flag("is_marlin_format", default=False):
            layout = "marlin"
        if layout not in ("gptq", "gptq_v2"):
            raise CheckpointError(
                f"checkpoint_format is {layout!r}, expected gptq or gptq_v2: the others are "
                "arranged for the kernels of one GPU. Get the checkpoint as gptq"
            )
        if (words := fields.word(("pack_dtype",), "int32")) != "int32":
            raise CheckpointError(f"pack_dtype is {words!r}, expected int32")
        return cls(GptqSettingsByModule.of(values), zeros_less_one=layout == "gptq")

    def linears(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, StoredLinear]:
        """Return what is quantized among the stored tensors.

        Raises one CheckpointError for all tensors that contradict the configuration.
        """
        found: dict[str, StoredLinear] = {}
        problems: list[str] = []
        skipped: list[str] = []
        for module, parts in modules_with_codes(tensors, _PARTS, problems):
            settings = self.settings.for_module(module)
            if settings is None:
                skipped.append(parts["qweight"])
                continue
            wrong = _problems(settings, parts, tensors)
            problems.extend(wrong)
            if not wrong:
                found[f"{module}.weight"] = _linear(settings, parts, tensors)
        problems.extend(named_problem("dynamic leaves in float what is quantized", skipped))
        refuse_contradictions(self.name, problems)
        return found

    def set_aside(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, str]:  # noqa: ARG002
        """Return what is left out: nothing."""
        return {}

    def matrix(self, name: str, linear: StoredLinear, read: Read) -> StoredMatrix:
        """Return one linear's codes.

        Raises CheckpointError for scales, zero-points or groups that cannot be.
        """
        settings = self.settings.for_module(name.removesuffix(".weight"))
        assert settings is not None, f"{name} was listed as quantized"
        parts, (n, k), bits = linear.parts, linear.spec.shape, settings.bits
        stated = _stated_group(settings, k)
        order = _order(settings, parts, read) if "g_idx" in parts else None
        # Columns of words become rows first, so that each stream of bits is a row.
        codes = unpacked(np.ascontiguousarray(read(parts["qweight"]).T), bits, k, straddled=True)
        if order is not None:
            codes = codes[:, order]
        zeros = self._zeros(parts["qzeros"], read(parts["qzeros"]), bits, n)
        scales = np.ascontiguousarray(read(parts["scales"]).T)
        scales, zeros = repeated(scales, stated, k), repeated(zeros, stated, k)
        matrix = integer_matrix(
            parts, codes, scales, zeros, bits=bits, symmetric=settings.symmetric
        )
        return StoredMatrix(matrix.codes, matrix.scales, matrix.zero_points, order=order)

    def _zeros(self, name: str, words: Array, bits: int, n: int) -> Array:
        """Return the zero-points [N, G]."""
        stored = np.ascontiguousarray(unpacked(words, bits, n, straddled=True).T)
        if not self.zeros_less_one:
            return stored
        largest = (1 << bits) - 1
        if wrong := np.count_nonzero(stored == largest):
            raise CheckpointError(
                f"{name} stores {largest} for {wrong} of {stored.size} zero-points less one. "
                f"{largest + 1} is no code of {bits} bits; readers take it for {largest + 1}, for "
                "0, or for a carry into the next one. Save the checkpoint as gptq_v2 with the "
                "tool that wrote it."
            )
        return stored + np.uint8(1)


def _stated_group(settings: GptqSettings, k: int) -> int:
    return k if settings.group_size == PER_CHANNEL else settings.group_size


def _order(settings: GptqSettings, parts: Parts, read: Read) -> Array | None:
    """Return the order that g_idx gives the columns, None unless the settings say act-order."""
    groups = read(parts["g_idx"])
    stated = _stated_group(settings, len(groups))
    order = order_of_groups(parts["g_idx"], groups, stated)
    if settings.act_order:
        return order
    if wrong := np.count_nonzero(groups != np.arange(len(groups)) // stated):
        raise CheckpointError(
            f"{parts['g_idx']} puts {wrong} of {len(groups)} columns into another group than their "
            "own, and the configuration does not say desc_act. "
            "Get config.json and the weights again, both from one export."
        )
    return None


def _problems(settings: GptqSettings, parts: Parts, tensors: Mapping[str, TensorSpec]) -> list[str]:
    rows, n = tensors[parts["qweight"]].shape
    bits, codes = settings.bits, parts["qweight"]
    if not rows or rows * _WORD % bits or n * bits % _WORD:
        return [f"{codes} is {[rows, n]}, which is no whole number of codes of {bits} bits"]
    k = rows * _WORD // bits
    stated = _stated_group(settings, k)
    if group_within(stated, k) is None:
        return [f"{codes} has K = {k}, which groups of {stated} do not divide"]
    if settings.act_order and "g_idx" not in parts:
        return [f"{codes.removesuffix('qweight')}g_idx is absent, and desc_act needs it"]
    groups = group_count(stated, k)
    shapes = {"qzeros": (groups, n * bits // _WORD), "scales": (groups, n), "g_idx": (k,)}
    return misshapen(parts, shapes, tensors) + _not_whole(parts, tensors)


def _not_whole(parts: Parts, tensors: Mapping[str, TensorSpec]) -> list[str]:
    name = parts.get("g_idx")
    if name is None or tensors[name].dtype.kind in "iu":
        return []
    return [f"{name} is {tensors[name].dtype}, expected int32"]


def _linear(
    settings: GptqSettings, parts: Parts, tensors: Mapping[str, TensorSpec]
) -> StoredLinear:
    rows, n = tensors[parts["qweight"]].shape
    k = rows * _WORD // settings.bits
    stated = _stated_group(settings, k)
    group = group_within(stated, k)
    assert group is not None, "groups that do not fit are a problem"
    scheme = StoredScheme(
        "integer",
        settings.bits,
        "per-channel" if settings.group_size == PER_CHANNEL or stated > k else group,
        settings.symmetric,
        has_order=settings.act_order,
    )
    return StoredLinear(scheme, TensorSpec((n, k), tensors[parts["scales"]].dtype), parts)
