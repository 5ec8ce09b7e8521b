"""Tell how GPTQ quantized each module: one configuration, and exceptions by pattern."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from castline.errors import CheckpointError
from castline.exporters.readers.quantization_fields import PER_CHANNEL, QuantizationFields

_BITS = (2, 3, 4, 8)
_SKIPS, _APPLIES = "-:", "+:"


@dataclass(frozen=True)
class GptqSettings:
    """How one module is quantized."""

    bits: int
    group_size: int
    """Columns that share a scale, or PER_CHANNEL."""
    symmetric: bool
    act_order: bool
    """Whether g_idx puts columns into groups in another order than their own."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> GptqSettings:
        """Return what the fields say. Raises CheckpointError for one that cannot be."""
        fields = QuantizationFields(values)
        group_size = fields.group_size()
        # With static groups the columns were reordered on the way only.
        ordered = fields.flag("desc_act", default=False) and not fields.flag("static_groups", False)
        return cls(
            fields.integer(("bits",), _BITS),
            group_size,
            fields.flag("sym", default=True),
            ordered and group_size != PER_CHANNEL,
        )


@dataclass(frozen=True)
class GptqSettingsByModule:
    """The settings of every module.

    `dynamic` has patterns: "+:" or nothing before one changes fields for the modules whose names
    begin with a match, "-:" leaves them in float. The first that matches counts.
    Source: QuantizeConfig.dynamic of GPTQModel 7.7.
    """

    usual: GptqSettings
    exceptions: tuple[tuple[re.Pattern[str], GptqSettings | None], ...]
    """None: left in float."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> GptqSettingsByModule:
        """Return what a quantization_config says. Raises CheckpointError for what cannot be."""
        dynamic = QuantizationFields(values).table("dynamic")
        exceptions = tuple(
            _exception(pattern, fields, values) for pattern, fields in dynamic.items()
        )
        return cls(GptqSettings.of(values), exceptions)

    def for_module(self, module: str) -> GptqSettings | None:
        """Return how a module is quantized; None where it is left in float."""
        return next(
            (settings for pattern, settings in self.exceptions if pattern.match(module)), self.usual
        )


def _exception(
    pattern: str, fields: object, usual: Mapping[str, Any]
) -> tuple[re.Pattern[str], GptqSettings | None]:
    skips = pattern.startswith(_SKIPS)
    try:
        compiled = re.compile(pattern.removeprefix(_SKIPS).removeprefix(_APPLIES))
    except re.error as error:
        raise CheckpointError(f"dynamic has {pattern!r}, which is no pattern: {error}") from error
    if skips:
        return compiled, None
    if not isinstance(fields, dict):
        raise CheckpointError(f"dynamic has {fields!r} for {pattern!r}, expected a table of fields")
    try:
        return compiled, GptqSettings.of({**usual, **fields})
    except CheckpointError as error:
        raise CheckpointError(f"dynamic, {pattern!r}: {error}") from error
