"""Check that the two folders differ in reassembled channels alone."""

from __future__ import annotations

from castline.compiler.recipes.load import load_recipe


def test_the_sides_differ_in_reassembly_alone() -> None:
    from reassembly import RECIPES, SIDES, WITH, WITHOUT

    for name in RECIPES:
        reassembled, plain = (load_recipe(name, SIDES[side]) for side in (WITH, WITHOUT))
        assert reassembled.reassembly is not None
        assert reassembled.model_copy(update={"reassembly": None}) == plain
        assert not plain.needs_calibration
