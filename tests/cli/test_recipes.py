from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from castline.compiler.recipes.load import load_recipe, preset_names


def test_lists_the_presets(run: Any) -> None:
    result = run("recipes")
    assert result.exit_code == 0
    assert all(name in result.stdout for name in preset_names())
    assert [one["name"] for one in json.loads(run("recipes", "--json").stdout)] == list(
        preset_names()
    )


def test_shows_a_recipe_as_a_file_that_loads(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(run("recipes", "w4a16-rtn").stdout)
    assert load_recipe(file) == load_recipe("w4a16-rtn")


def test_validates_a_file(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\n")
    result = run("recipes", file)
    assert result.exit_code == 1
    assert "weights: is missing" in result.stderr
