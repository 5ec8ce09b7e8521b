"""A plan is made of a checkpoint, gone on with, and refused where it does not belong."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from castline.compiler.package.manifest import verify
from castline.compiler.pipeline import compile_model
from castline.compiler.plan.store import read_plan
from castline.compiler.planning import (
    planned_recipe,
    quantize_model,
    require_device,
    require_fitting,
)
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.record import read_report
from castline.errors import GateFailedError, OutputError, RecipeError, TargetError

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

    monkeypatch.setattr(PlanSearch, "_prepared", lambda *_: pytest.fail("was searched again"))
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
    block = PlanSearch._prepared

    def stopping(self: Any, index: int, work: Path) -> Any:
        searched.append(index)
        if searched == [0, 1]:
            raise KeyboardInterrupt
        return block(self, index, work)

    monkeypatch.setattr(PlanSearch, "_prepared", stopping)
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


@pytest.fixture(scope="module")
def static(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Recipe]:
    """Return the static recipe, calibrated on a few words, with changes put in."""
    text = tmp_path_factory.mktemp("calibration") / "text.txt"
    text.write_text(" ".join(f"w{i * i * 7 % 155}" for i in range(3000)))
    small = [f"calibration.text={text}", "calibration.samples=16", "calibration.length=128"]
    loose = ["gate.perplexity_ratio=3", "gate.kl_divergence=2", "gate.top1_agreement=0.2"]

    def of(*changes: str) -> Recipe:
        return load_recipe("w8a8-smoothquant-static", [*small, *loose, *changes])

    return of


def test_a_plan_is_made_where_one_is_needed_and_published_inside_the_output(
    source: str, evaluation_text: str, tmp_path: Path, static: Callable[..., Recipe]
) -> None:
    out = tmp_path / "out"
    outcome = compile_model(
        source, out, recipe=static(), target="onnx", evaluation_text=evaluation_text, threads=1
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out"], "its plan is moved into it"
    assert verify(out) == []
    assert read_plan(out / "plan").recipe == static().model_dump(mode="json")
    assert outcome.tensors is not None
    assert outcome.tensors.of("logits").cosine > 0.97
    assert {one.name for one in outcome.tensors.outputs} == {"logits"}, "its values are scaled"
    report = read_report(out)
    assert report is not None
    assert len(report["quantization"]["linears"]) == 14  # type: ignore[index]
    page = (out / "report.html").read_text()
    assert "mlp.down_proj" in page


def test_a_given_plan_is_used_and_stays_and_makes_the_same_model(
    source: str, tmp_path: Path, static: Callable[..., Recipe], compiled: Any
) -> None:
    quantize_model(source, tmp_path / "plan", recipe=static())
    for name, plan in (("given", tmp_path / "plan"), ("made", None)):
        compiled(source, tmp_path / name, static(), plan=plan)
    assert (tmp_path / "plan" / "plan.json").is_file()
    models = [
        tmp_path / name / f"model.onnx{end}" for name in ("given", "made") for end in ("", ".data")
    ]
    given, given_data, made, made_data = (path.read_bytes() for path in models)
    assert (given, given_data) == (made, made_data)
    with pytest.raises(OutputError, match="differs from 'w8a8-smoothquant-static' in smoothing"):
        compiled(source, tmp_path / "x", static("smoothing.alpha=0.3"), plan=tmp_path / "plan")


def test_a_plan_outlives_a_gate_that_fails(
    source: str, evaluation_text: str, tmp_path: Path, static: Callable[..., Recipe], compiled: Any
) -> None:
    strict = static("gate.kl_divergence=1e-9")
    with pytest.raises(GateFailedError):
        compiled(
            source,
            tmp_path / "out",
            strict,
            gate=True,
            evaluation_text=evaluation_text,
            threads=1,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["out.plan"]
    assert len(read_plan(tmp_path / "out.plan").blocks) == 2


def test_a_model_is_not_judged_by_the_text_it_was_calibrated_on(
    source: str, evaluation_text: str, tmp_path: Path, static: Callable[..., Recipe], compiled: Any
) -> None:
    recipe = static(f"calibration.text={evaluation_text}")
    with pytest.raises(RecipeError, match="calibration text and the evaluation text are the same"):
        compiled(source, tmp_path / "out", recipe, gate=True, evaluation_text=evaluation_text)


@pytest.mark.parametrize("granularity", ["per-tensor", "per-channel"])
@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
def test_an_int8_cache_passes_the_gate(
    source: str,
    evaluation_text: str,
    tmp_path: Path,
    static: Callable[..., Recipe],
    granularity: str,
    target: str,
) -> None:
    out = tmp_path / "out"
    recipe = static(f"kv_cache.granularity={granularity}")
    outcome = compile_model(
        source, out, recipe=recipe, target=target, evaluation_text=evaluation_text, threads=1
    )
    assert outcome.tensors is not None
    assert outcome.tensors.of("logits").cosine > 0.97
    model = onnx.load(out / "model.onnx", load_external_data=False)
    caches = [v for v in model.graph.input if v.name.startswith("past_key_values")]
    assert {v.type.tensor_type.elem_type for v in caches} == {onnx.TensorProto.INT8}
