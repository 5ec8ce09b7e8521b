"""Tell the two TensorRTs apart: what each is called, needs, and has no option for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from castline.compiler.targets.tensorrt.edition import (
    EDITIONS,
    TENSORRT,
    TENSORRT_RTX,
    edition_named,
)
from castline.compiler.targets.tensorrt.engine_options import EngineOptions


def test_an_edition_has_the_name_of_its_target() -> None:
    assert [edition_named(edition.name) for edition in EDITIONS] == [TENSORRT, TENSORRT_RTX]


def test_polygraphy_imports_the_edition() -> None:
    assert TENSORRT.environment() == {"POLYGRAPHY_USE_TENSORRT_RTX": "0"}
    assert TENSORRT_RTX.environment() == {"POLYGRAPHY_USE_TENSORRT_RTX": "1"}


@pytest.mark.parametrize(
    ("options", "only", "words"),
    [
        ({"timing_cache": Path("c")}, TENSORRT, "Leave --timing-cache out"),
        ({"version_compatible": True}, TENSORRT, "Leave --version-compatible out"),
        ({"hardware_compatibility": "ampere+"}, TENSORRT, "Use --compute-capability in place"),
        ({"compute_capabilities": ("8.9",)}, TENSORRT_RTX, "Leave --compute-capability out"),
    ],
)
def test_an_option_of_one_edition_is_refused_by_the_other(
    options: dict[str, Any], only: Any, words: str
) -> None:
    chosen = EngineOptions(**options)
    (other,) = (edition for edition in EDITIONS if edition != only)
    assert only.refused(chosen) == ()
    (sentence,) = other.refused(chosen)
    assert words in sentence


def test_what_both_have_is_refused_by_none() -> None:
    chosen = EngineOptions(strip_weights=True, workspace=1)
    assert [edition.refused(chosen) for edition in EDITIONS] == [(), ()]
