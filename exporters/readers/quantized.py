"""Show the weights of quantized linears in place of the tensors that their codes are packed in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from castline.errors import CheckpointError
from castline.exporters.readers.stored import StoredFormat, StoredLinear, StoredMatrix
from castline.exporters.readers.tensors import Array, TensorReader, TensorSpec, named

# What the formats that are read, and those that are not, call their parts; no model's own parameter
# ends so.
_PART_ENDINGS = (
    ".qweight", ".qzeros", ".g_idx", ".weight_packed", ".weight_scale", ".weight_scale_inv",
    ".weight_scale_2", ".weight_global_scale", ".weight_zero_point", ".weight_shape",
    ".weight_g_idx", ".input_scale", ".input_zero_point", ".pre_quant_scale", ".weight.absmax",
    ".weight.quant_map", ".SCB", ".SCZ", ".codebooks", ".Qidxs",
)  # fmt: skip
_ADVICE = "Get the folder again, as one tool wrote it."


class QuantizedReader:
    """The tensors of a checkpoint with quantized linears, each as the weight it stands for.

    A weight is dequantized when it is read, in the type of its spec; of the rest nothing changes.
    """

    def __init__(self, packed: TensorReader, stored_format: StoredFormat) -> None:
        """List the tensors.

        Raises CheckpointError for tensors that contradict the format's configuration, and for those
        of another format beside them.
        """
        self.files = packed.files
        self.dequantized: Mapping[str, str] = {}
        self._packed = packed
        self._format = stored_format
        self.stored = self._linears()
        parts = {part for linear in self.stored.values() for part in linear.parts.values()}
        others = {name: spec for name, spec in packed.tensors.items() if name not in parts}
        self.left_out = stored_format.set_aside(others)
        """Stored tensors that no model has a place for, and why."""
        plain = {name: spec for name, spec in others.items() if name not in self.left_out}
        self._refuse_mixed(plain)
        weights = {name: linear.spec for name, linear in self.stored.items()}
        self.tensors: Mapping[str, TensorSpec] = plain | weights

    def read(self, name: str) -> Array:
        """Return the tensor, a quantized one as its weight. Raises as `matrix` then."""
        if name not in self.stored:
            return self._packed.read(name)
        return self.matrix(name).weight().astype(self.stored[name].spec.dtype)

    def matrix(self, name: str) -> StoredMatrix:
        """Return the codes of a linear, unpacked.

        Raises CheckpointError that names the tensor which holds what cannot be.
        """
        linear = self.stored[name]
        # Read before the format sees them: an error of the file names the file by itself.
        arrays = {part: self._packed.read(part) for part in linear.parts.values()}
        try:
            return self._format.matrix(name, linear, arrays.__getitem__)
        except CheckpointError as error:
            raise CheckpointError(f"{self.file_of(name)}: {error}") from error

    def file_of(self, name: str) -> Path:
        """Return the file that holds the tensor, or the first of its parts."""
        linear = self.stored.get(name)
        return self._packed.file_of(name if linear is None else next(iter(linear.parts.values())))

    def _linears(self) -> Mapping[str, StoredLinear]:
        try:
            found = self._format.linears(self._packed.tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{self._folder}: {error}") from error
        if found:
            return found
        raise CheckpointError(
            f"{self._folder}: the configuration says that the weights are quantized "
            f"({self._format.name}), and no tensor is. {_ADVICE}"
        )

    def _refuse_mixed(self, plain: Mapping[str, TensorSpec]) -> None:
        if strangers := sorted(name for name in plain if name.endswith(_PART_ENDINGS)):
            raise CheckpointError(
                f"{self._folder} mixes formats: its configuration says {self._format.name}, and "
                f"{len(strangers)} tensors belong to nothing that it stores: {named(strangers)}. "
                f"{_ADVICE}"
            )
        if twice := sorted(name for name in plain if name in self.stored):
            raise CheckpointError(
                f"{self._folder} holds {len(twice)} weights both quantized ({self._format.name}) "
                f"and in float: {named(twice)}. {_ADVICE}"
            )

    @property
    def _folder(self) -> Path:
        return self.files[0].parent if self.files else Path()


def refuse_unexplained(weights: TensorReader) -> None:
    """Raise CheckpointError for packed tensors in a folder without a quantization configuration."""
    packed = sorted(name for name in weights.tensors if name.endswith(_PART_ENDINGS))
    if packed:
        raise CheckpointError(
            f"{weights.files[0].parent} holds parts of quantized weights ({named(packed)}), and "
            "config.json has no quantization_config that says how they are stored. Get config.json "
            "again, from where the weights come from."
        )
