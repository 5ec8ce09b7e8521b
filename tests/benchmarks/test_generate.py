"""Check that both sides of the speed comparison are given the same task."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def test_both_sides_are_told_the_same_bits_group_size_and_head() -> None:
    from generate import BUILDER, OURS, SETTINGS, Builders, Ours

    alike = [setting.sides for setting in SETTINGS if setting.alike and setting.name != "float"]
    assert len(alike) == 4
    for sides in alike:
        castline, builder = sides[OURS], sides[BUILDER]
        assert isinstance(castline, Ours)
        assert isinstance(builder, Builders)
        ours, theirs = " ".join(castline.changes), " ".join(builder.options)
        bits = "8" if "weights.bits=8" in ours else "4"
        size = re.search(r"weights\.group_size=(\d+)", ours)
        assert size is not None
        assert builder.precision == f"int{bits}"
        assert f"block_size={size[1]}" in theirs
        assert (f"head.bits={bits}" in ours) == ("/lm_head/MatMul" not in theirs)


def test_every_recipe_takes_its_changes() -> None:
    from generate import SETTINGS, Ours

    from castline.compiler.recipes.load import load_recipe

    for setting in SETTINGS:
        for side in setting.sides.values():
            if isinstance(side, Ours):
                assert not load_recipe(side.recipe, side.changes).needs_calibration


def test_commands_name_what_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import generate

    monkeypatch.setattr(generate, "sample_model", lambda: tmp_path / "model")
    [ours] = generate.Ours("float", ("a=1", "b=2")).commands(tmp_path / "out")
    assert ours[1:5] == ["compile", str(tmp_path / "model"), "--recipe", "float"]
    assert ours[5:9] == ["--set", "a=1", "--set", "b=2"]
    [theirs] = generate.Builders("int8", ("block_size=32",)).commands(tmp_path / "out")
    assert theirs[-6:] == ["-p", "int8", "-e", "cpu", "--extra_options", "block_size=32"]
    [plain] = generate.Builders("fp32").commands(tmp_path / "out")
    assert "--extra_options" not in plain
    float_folder, quantized = generate.Dynamic().commands(tmp_path / "out")
    assert float_folder[float_folder.index("-o") + 1] == quantized[2] != str(tmp_path / "out")
    assert Path(quantized[1]).is_file()
    assert quantized[3] == str(tmp_path / "out")
