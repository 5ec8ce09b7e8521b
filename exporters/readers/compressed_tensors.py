"""Read the linears of a checkpoint in the compressed-tensors format, as llm-compressor has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from castline.errors import CheckpointError
from castline.exporters.readers.compressed_tensors_codes import matrix_of_parts
from castline.exporters.readers.compressed_tensors_config import (
    ModuleGroup,
    Settings,
    read_settings,
)
from castline.exporters.readers.compressed_tensors_layout import Parts, stored_linear
from castline.exporters.readers.stored import Read, StoredLinear, StoredMatrix
from castline.exporters.readers.stored_parts import (
    cache_scales,
    left_in_float,
    module_of,
    refuse_contradictions,
    unclaimed_codes,
)
from castline.exporters.readers.tensors import TensorSpec

_NAME = "compressed-tensors"
_MARKS = (".weight_packed", ".weight_scale")
_WEIGHT = ".weight"


@dataclass(frozen=True)
class CompressedTensors:
    """The compressed-tensors format with one checkpoint's settings."""

    settings: Settings
    name: str = _NAME

    @staticmethod
    def of(fields: Mapping[str, Any]) -> CompressedTensors:
        """Return the format that a quantization_config describes.

        Raises one CheckpointError that names all in it which cannot be read.
        """
        return CompressedTensors(read_settings(fields))

    def linears(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, StoredLinear]:
        """Return what is quantized among the stored tensors; nothing is read.

        Raises one CheckpointError that names every tensor which contradicts the configuration.
        """
        found: dict[str, StoredLinear] = {}
        problems: list[str] = []
        modules = {module_of(name): None for name in tensors if name.endswith(_MARKS)}
        for module in modules:
            try:
                found[module + _WEIGHT] = stored_linear(
                    Parts.of(module, tensors), self._group(module)
                )
            except CheckpointError as error:
                problems.append(str(error))
        if not problems:
            parts = {name for linear in found.values() for name in linear.parts.values()}
            problems += unclaimed_codes(tensors, parts)
            problems += left_in_float(
                tensors, found, lambda module: self.settings.group_of(module) is not None
            )
        refuse_contradictions(self.name, problems)
        return found

    def set_aside(self, tensors: Mapping[str, TensorSpec]) -> Mapping[str, str]:
        """Return the stored scales of a quantized key-value cache, and why they are left out."""
        return cache_scales(tensors)

    def matrix(self, name: str, linear: StoredLinear, read: Read) -> StoredMatrix:
        """Return one linear's codes, unpacked. Raises CheckpointError for what cannot be in it."""
        group = self._group(name.removesuffix(_WEIGHT))
        return matrix_of_parts(linear, group.weights, read)

    def _group(self, module: str) -> ModuleGroup:
        group = self.settings.group_of(module)
        if group is None:
            why = "is in `ignore`" if self.settings.ignores(module) else "is in no config_group"
            raise CheckpointError(f"{module} is stored quantized, and {why}")
        return group
