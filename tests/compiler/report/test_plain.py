from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from castline.compiler.report.plain import PlainValues, plain, plain_fields


@dataclass(frozen=True)
class Foreign:
    value: float


@dataclass(frozen=True)
class Own(PlainValues):
    path: Path
    many: tuple[Foreign, ...]
    table: dict[str, float]
    none: None = None


def test_fields_become_what_json_has() -> None:
    own = Own(Path("a/b"), (Foreign(1.5), Foreign(float("nan"))), {"x": float("inf")})
    assert own.to_json() == {
        "path": "a/b",
        "many": [{"value": 1.5}, {"value": "nan"}],
        "table": {"x": "inf"},
        "none": None,
    }
    assert plain((own,)) == [own.to_json()]


def test_fields_of_a_dataclass_of_anyone() -> None:
    assert plain_fields(Foreign(-2.0)) == {"value": -2.0}
