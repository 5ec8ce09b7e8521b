"""A plan is made of a checkpoint, gone on with, and refused where it does not belong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.plan.store import read_plan
from castline.compiler.planning import (
    planned_recipe,
    quantize_model,
    require_device,
    require_fitting,
)
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.recipe import Recipe
from castline.errors import OutputError, RecipeError, TargetError

SMALL = ["calibration.samples=4", "calibration.length=32", "smoothing.sites=[norm]"]


@pytest.fixture(scope="module")
def calibration_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("calibration") / "text.txt"
    file.write_text(" ".join(f"w{i * i * 7 % 155}" for i in range(1000)))
    return str(file)


@pytest.fixture(scope="module")
def recipe(calibration_text: str) -> Callable[..., Recipe]:
    def of(*overrides: str, name: str = "w8a8-smoothquant-o3") -> Recipe:
        text = f"calibration.text={calibration_text}"
        return load_recipe(name, [text, *SMALL, *overrides])

    return of


@pytest.fixture(scope="module")
def plan(
    source: str, recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "plan"
    quantize_model(source, folder, recipe=recipe())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_linear_of_the_layers_has_a_decision(plan: Path) -> None:
    found = read_plan(plan)
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    expected = {f"model.layers.{i}.self_attn.{n}.weight" for i in range(2) for n in names}
    mlp = ("gate_proj", "up_proj", "down_proj")
    expected |= {f"model.layers.{i}.mlp.{n}.weight" for i in range(2) for n in mlp}
    assert set(found.linears) == expected
    for linear in found.linears.values():
        assert linear.parameters is not None
        assert linear.parameters.scale == pytest.approx(linear.peak_after / 127, rel=1e-4)
        assert linear.output_sqnr is not None
        assert linear.output_sqnr > 10


def test_norm_sites_are_smoothed_and_others_say_why_not(plan: Path) -> None:
    kinds = {(site.kind, site.declined) for site in read_plan(plan).sites}
    assert (
        "rows through attention",
        "the recipe does not fold at sites of the kind value",
    ) in kinds
    assert ("rows through a gate", "the recipe does not fold at sites of the kind up") in kinds
    norms = [site for site in read_plan(plan).sites if site.kind == "norm gain"]
    assert len(norms) == 4
    assert all(site.error <= site.error_before for site in norms)  # type: ignore[operator]


def test_the_same_inputs_make_the_same_bytes_and_a_finished_plan_is_not_made_again(
    source: str,
    recipe: Callable[..., Recipe],
    plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    quantize_model(source, tmp_path / "plan", recipe=recipe())
    assert contents(tmp_path / "plan") == contents(plan)
    from castline.compiler.search.planning import PlanSearch

    monkeypatch.setattr(PlanSearch, "_block", lambda *_: pytest.fail("was searched again"))
    quantize_model(source, tmp_path / "plan", recipe=recipe())
    assert contents(tmp_path / "plan") == contents(plan)


def test_a_run_that_was_stopped_goes_on_and_ends_in_the_same_bytes(
    source: str,
    recipe: Callable[..., Recipe],
    plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from castline.compiler.search.planning import PlanSearch

    searched: list[int] = []
    block = PlanSearch._block

    def stopping(self: Any, index: int, work: Path) -> Any:
        searched.append(index)
        if searched == [0, 1]:
            raise KeyboardInterrupt
        return block(self, index, work)

    monkeypatch.setattr(PlanSearch, "_block", stopping)
    folder = tmp_path / "plan"
    with pytest.raises(KeyboardInterrupt):
        quantize_model(source, folder, recipe=recipe())
    with pytest.raises(OutputError, match="not finished, 1 of 2 blocks are"):
        read_plan(folder)
    quantize_model(source, folder, recipe=recipe())
    assert searched == [0, 1, 1]
    assert contents(folder) == contents(plan)


def test_a_plan_of_something_else_is_not_overwritten_unasked(
    source: str, recipe: Callable[..., Recipe], plan: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plan"
    shutil.copytree(plan, folder)
    other = recipe("smoothing.alpha=0.5")
    with pytest.raises(OutputError, match=r"holds a plan of another recipe. Use --overwrite"):
        quantize_model(source, folder, recipe=other)
    outcome = quantize_model(source, folder, recipe=other, overwrite=True)
    assert {site.alpha for site in outcome.plan.sites if site.scale is not None} == {0.5}


def test_a_folder_that_is_no_plan_is_left_alone(
    source: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no quantization plan"):
        quantize_model(source, tmp_path, recipe=recipe(), overwrite=True)
    assert (tmp_path / "diary.txt").read_text() == "mine"


def test_patterns_keep_linears_in_float_and_unknown_ones_are_named(
    source: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    outcome = quantize_model(source, tmp_path / "plan", recipe=recipe("keep=['*.down_proj']"))
    kept = {one.name: one.kept for one in outcome.plan.linears.values() if one.kept}
    assert set(kept) == {f"model.layers.{i}.mlp.down_proj.weight" for i in range(2)}
    assert set(kept.values()) == {"the recipe keeps *.down_proj"}
    with pytest.raises(RecipeError, match=r"keep: no linear of the model is called \*.dense"):
        quantize_model(source, tmp_path / "other", recipe=recipe("keep=['*.dense']"))


def test_a_plan_of_another_checkpoint_or_recipe_is_refused(
    plan: Path, recipe: Callable[..., Recipe]
) -> None:
    found = read_plan(plan)
    sha256 = found.identity.checkpoint_sha256
    require_fitting(found, plan, recipe("gate.perplexity_ratio=9", "name=mine"), sha256)
    with pytest.raises(OutputError, match="is a plan of another checkpoint"):
        require_fitting(found, plan, recipe(), "0" * 64)
    with pytest.raises(OutputError, match="that differs from 'w8a8-smoothquant-o3' in weights"):
        require_fitting(found, plan, recipe("weights.bits=6"), sha256)


def test_a_plan_brings_its_recipe(plan: Path, recipe: Callable[..., Recipe]) -> None:
    assert planned_recipe(plan) == recipe()
    assert planned_recipe(plan, ["gate.perplexity_ratio=7"]).gate.perplexity_ratio == 7


def test_a_recipe_that_quantizes_nothing_has_no_plan(source: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="quantizes nothing"):
        quantize_model(source, tmp_path / "plan", recipe=load_recipe("float"))
    assert not (tmp_path / "plan").exists()


def test_a_gpu_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    require_device("cpu")
    with pytest.raises(TargetError, match="--device cuda: torch finds no CUDA GPU here"):
        require_device("cuda")
