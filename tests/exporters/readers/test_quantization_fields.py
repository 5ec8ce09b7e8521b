from __future__ import annotations

import pytest

from castline.errors import CheckpointError
from castline.exporters.readers.quantization_fields import PER_CHANNEL, QuantizationFields

FIELDS = QuantizationFields(
    {"bits": 4, "w_bit": 8, "group_size": -1, "sym": True, "version": "GEMM", "none": None}
)


def test_fields_come_in_their_types() -> None:
    assert FIELDS.integer(("bits",), (4, 8)) == 4
    assert FIELDS.group_size() == PER_CHANNEL
    assert FIELDS.flag("sym", default=False) is True
    assert FIELDS.word(("version",), "gemv") == "gemm"
    assert QuantizationFields({"dynamic": {"a": {}}}).table("dynamic") == {"a": {}}


def test_the_first_name_that_has_a_value_counts() -> None:
    assert FIELDS.integer(("none", "w_bit", "bits"), (4, 8)) == 8


def test_absent_and_null_fields_have_defaults() -> None:
    assert FIELDS.flag("none", default=True) is True
    assert FIELDS.word(("none", "absent"), "int32") == "int32"
    assert FIELDS.table("absent") == {}


@pytest.mark.parametrize("value", ["4", 4.0, True, None, 5])
def test_an_integer_is_one_of_those_allowed(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"bits is .*, expected 2, 4"):
        QuantizationFields({"bits": value}).integer(("bits",), (2, 4))


@pytest.mark.parametrize("value", [0, -2, 64.0, True, None, "64"])
def test_a_group_has_columns(value: object) -> None:
    with pytest.raises(CheckpointError, match=r"group_size is .*, expected a number of columns"):
        QuantizationFields({"group_size": value}).group_size()


def test_other_fields_of_a_wrong_type_are_named() -> None:
    with pytest.raises(CheckpointError, match="sym is 1, expected true or false"):
        QuantizationFields({"sym": 1}).flag("sym", default=True)
    with pytest.raises(CheckpointError, match="version is 2, expected text"):
        QuantizationFields({"version": 2}).word(("version",), "gemm")
    with pytest.raises(CheckpointError, match=r"dynamic is \[\], expected a table"):
        QuantizationFields({"dynamic": []}).table("dynamic")
