"""castline sensitivity asks for a ranking, shows it, and writes the recipe of a budget."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from castline.cli.sensitivity import sensitivity
from castline.compiler.ranking import Question
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.ranking_outcome import RankedUnit, RankingOutcome

UNITS = (
    RankedUnit("model.layers.3", ("a", "b"), 0.5, 40.0, 7_080_000, kept=True),
    RankedUnit("model.layers.1", ("c",), 0.0123, 20.1, 3_540_000, kept=False),
)


class Ranking(ModuleType):
    """Stands in for castline.compiler.ranking."""

    Question = Question

    def __init__(self) -> None:
        super().__init__("castline.compiler.ranking")
        self.asked: dict[str, Any] = {}

    def rank_model(self, source: str, **options: Any) -> RankingOutcome:
        self.asked = {"source": source, **options}
        question: Question = options["question"]
        chosen = question.budget is not None
        recipe = options["recipe"]
        if chosen:
            recipe = recipe.model_copy(update={"keep": ("model.layers.3.*",)})
        return RankingOutcome(
            source=source,
            recipe=recipe,
            by=question.by,
            text="shipped",
            tokens=4088,
            units=tuple(replace(unit, kept=unit.kept and chosen) for unit in UNITS),
            perplexity_original=20.0,
            perplexity_quantized=45.0,
            kl_divergence_quantized=0.6,
            budget=question.budget,
            perplexity=20.1 if chosen else None,
            kl_divergence=0.0123 if chosen else None,
            seconds=75.0,
        )


@pytest.fixture
def ranking(monkeypatch: pytest.MonkeyPatch) -> Ranking:
    stand_in = Ranking()
    monkeypatch.setitem(sys.modules, "castline.compiler.ranking", stand_in)
    return stand_in


def run(*arguments: object) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(sensitivity)
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "100"})


def test_passes_on_what_was_asked(ranking: Ranking, tmp_path: Path) -> None:
    result = run(
        "model.gguf", "--recipe", "w8a8-smoothquant-o3", "--by", "linear", "--budget", "1.02",
        "--samples", "4", "--plan", "plan", "--set", "smoothing.alpha=0.5",
        "--calibration-text", "my.txt", "--device", "cuda", "-o", tmp_path / "mixed.yaml",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    recipe = ranking.asked.pop("recipe")
    assert (recipe.name, recipe.smoothing.alpha) == ("w8a8-smoothquant-o3", 0.5)
    assert recipe.calibration.text == "my.txt"
    del ranking.asked["progress"]
    assert ranking.asked == {
        "source": "model.gguf",
        "question": Question("linear", 1.02, 4),
        "plan": Path("plan"),
        "device": "cuda",
        "trust_remote_code": False,
    }


def test_shows_the_worst_first_with_what_all_of_them_do(ranking: Ranking) -> None:
    result = run("model.gguf")
    assert ranking.asked["question"] == Question("layer", None, 4)
    lines = result.stdout.splitlines()
    assert lines[0] == "model.gguf, w8a8-smoothquant: what each layer does alone"
    assert lines[2].split() == ["model.layers.3", "0.5", "40.000", "7.08", "MB"]
    assert lines[3].split() == ["model.layers.1", "0.0123", "20.100", "3.54", "MB"]
    assert "the original: 20.000, with all of these quantized: 45.000 (2.2500 times)" in lines[4]
    assert "4,088 tokens of the calibration text: shipped" in result.stdout


def test_shows_what_a_budget_keeps(ranking: Ranking) -> None:  # noqa: ARG001
    lines = run("model.gguf", "--budget", "1.02").stdout.splitlines()
    assert lines[2].rstrip().endswith("kept in float")
    assert not lines[3].rstrip().endswith("kept in float")
    assert lines[5] == (
        "within 1.02 times that: 1 of 2 kept in float, 7.08 MB more; perplexity 20.100 "
        "(1.0050 times)"
    )


def test_writes_a_recipe_to_compile_by(ranking: Ranking, tmp_path: Path) -> None:  # noqa: ARG001
    file = tmp_path / "mixed.yaml"
    assert run("model.gguf", "--budget", "1.02", "-o", file).exit_code == 0
    assert load_recipe(file).keep == ("model.layers.3.*",)
    assert [path.name for path in tmp_path.iterdir()] == ["mixed.yaml"]


def test_prints_json_alone(ranking: Ranking) -> None:  # noqa: ARG001
    document = json.loads(run("model.gguf", "--budget", "1.02", "--json").stdout)
    assert document["units"][0]["name"] == "model.layers.3"
    assert document["recipe"]["keep"] == ["model.layers.3.*"]


def test_a_file_in_the_way_is_refused_before_the_work(ranking: Ranking, tmp_path: Path) -> None:
    file = tmp_path / "mixed.yaml"
    file.write_text("mine")
    asked = ("model.gguf", "--budget", "1.02", "-o", file)
    result = run(*asked)
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert ranking.asked == {}
    assert run(*asked, "--overwrite").exit_code == 0
    assert file.read_text() != "mine"


def test_a_file_in_no_folder_is_refused_before_the_work(ranking: Ranking, tmp_path: Path) -> None:
    result = run("model.gguf", "--budget", "1.02", "-o", tmp_path / "none" / "mixed.yaml")
    assert result.exit_code == 1
    assert "is not a folder" in result.stderr
    assert ranking.asked == {}


def test_a_file_without_a_budget_is_wrong_usage(ranking: Ranking, tmp_path: Path) -> None:
    result = run("model.gguf", "-o", tmp_path / "mixed.yaml")
    assert result.exit_code == 2
    assert "Give --budget" in result.stderr
    assert ranking.asked == {}


def test_a_budget_below_one_is_wrong_usage(ranking: Ranking) -> None:
    assert run("model.gguf", "--budget", "0.9").exit_code == 2
    assert ranking.asked == {}
