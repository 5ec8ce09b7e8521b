"""What is written back is loaded by transformers, and is the model that our graph computes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from castline.compiler.package.manifest import verify
from castline.compiler.pipeline import compile_model
from castline.compiler.plan.store import read_plan
from castline.compiler.quant.round_to_nearest import quantize
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recheck import check_output
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.recipe import Recipe
from castline.errors import CheckpointError, GateFailedError, RecipeError, TargetError
from castline.exporters.checkpoint import open_checkpoint

ROUNDED = ("head=keep", "embedding=keep")
NO_GATE = "gate={kl_divergence: 9, perplexity_ratio: 9, top1_agreement: 0.001}"
Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
TOKENS = np.random.default_rng(3).integers(3, 160, (1, 24))


def weights(bits: int = 4, group: int | str = 32, symmetric: bool = False) -> str:
    return f"weights={{bits: {bits}, group_size: {group}, symmetric: {str(symmetric).lower()}}}"


def rounded(*changes: str) -> Recipe:
    return load_recipe("w4a16-rtn", [*ROUNDED, NO_GATE, *changes])


@pytest.fixture(scope="module")
def handed_back(
    source: str, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Any, Path]]:
    def write(recipe: Recipe, **options: Any) -> tuple[Any, Path]:
        output = tmp_path_factory.mktemp("handed") / "out"
        options = {"gate": False, **options}
        given = options.pop("source", source)
        outcome = compile_model(given, output, recipe=recipe, target="huggingface", **options)
        return outcome, output

    return write


@pytest.fixture(scope="module")
def awq(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    text = tmp_path_factory.mktemp("calibration") / "text.txt"
    text.write_text(" ".join(f"w{i * i * 7 % 155}" for i in range(1000)))
    settings = [f"calibration.text={text}", "calibration.samples=4", "calibration.length=32"]
    return load_recipe("w4a16-awq", [*settings, weights(), NO_GATE])


def logits_of_transformers(folder: Path) -> np.ndarray:
    pytest.importorskip("compressed_tensors")
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library's own, about how it is written
        model = AutoModelForCausalLM.from_pretrained(folder)
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(TOKENS)).logits.float().numpy())


def assert_near(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def graph_logits(run_steps: Callable[..., list[np.ndarray]], output: Path) -> np.ndarray:
    return run_steps(output / "model.onnx", [(TOKENS, None)])[0]


def test_transformers_gives_the_logits_of_the_graph_by_one_awq_plan(
    source: str,
    awq: Recipe,
    handed_back: Callable[..., tuple[Any, Path]],
    run_steps: Callable[..., list[np.ndarray]],
    tmp_path: Path,
) -> None:
    outcome, folder = handed_back(awq)
    plan = folder / "plan"
    found = read_plan(plan)
    assert any(site.scale is not None and (site.scale != 1).any() for site in found.sites)
    assert set(found.codes) == set(found.linears), "rounding is compensated, so all are given"
    graph = tmp_path / "graph"
    compile_model(source, graph, recipe=awq, plan=plan, target="onnx", gate=False)
    assert_near(logits_of_transformers(folder), graph_logits(run_steps, graph))

    written = open_checkpoint(folder)
    for name, given in found.codes.items():
        (matrix,) = given.matrices()
        stored = written.matrix(name)
        np.testing.assert_array_equal(stored.codes.T, matrix.codes)
        np.testing.assert_array_equal(stored.scales.T, matrix.scales)
        np.testing.assert_array_equal(stored.zero_points.T, matrix.zero_points)  # type: ignore[union-attr]
    assert outcome.quantization is not None


WAYS = [
    (4, 32, True), (4, 128, True), (4, 128, False), (4, "per-channel", False),
    (4, "per-tensor", True), (4, "per-tensor", False), (3, 32, True), (3, 32, False),
    (8, 64, True), (8, "per-channel", False), (6, 32, True),
]  # fmt: skip


@pytest.mark.parametrize(("bits", "group", "symmetric"), WAYS)
def test_transformers_gives_the_logits_of_the_graph_for_rounded_weights(
    source: str,
    handed_back: Callable[..., tuple[Any, Path]],
    run_steps: Callable[..., list[np.ndarray]],
    tmp_path: Path,
    bits: int,
    group: int | str,
    symmetric: bool,
) -> None:
    recipe = rounded(weights(bits, group, symmetric))
    _, folder = handed_back(recipe)
    graph = tmp_path / "graph"
    compile_model(source, graph, recipe=recipe, target="onnx", gate=False)
    assert_near(logits_of_transformers(folder), graph_logits(run_steps, graph))
    checkpoint, written = open_checkpoint(source), open_checkpoint(folder)
    expected = quantize(
        checkpoint.read(Q_PROJ).T,
        WeightScheme(bits, group, symmetric),  # type: ignore[arg-type]
    )
    stored = written.matrix(Q_PROJ)
    np.testing.assert_array_equal(stored.codes.T, expected.codes)
    np.testing.assert_array_equal(stored.weight().T, expected_weights(expected))


def expected_weights(matrix: Any) -> np.ndarray:
    scales = matrix.scales.repeat(128 // len(matrix.scales), axis=0)
    zeros = (
        0
        if matrix.zero_points is None
        else matrix.zero_points.repeat(128 // len(matrix.scales), axis=0).astype(np.float32)
    )
    return np.asarray((matrix.codes.astype(np.float32) - zeros) * scales)


def test_the_codes_go_on_from_there_unchanged_into_graphs_and_back(
    handed_back: Callable[..., tuple[Any, Path]], tmp_path: Path
) -> None:
    _, folder = handed_back(rounded(weights()))
    stored = load_recipe("as-stored", [NO_GATE])
    outcome = compile_model(
        str(folder), tmp_path / "graph", recipe=stored, target="onnx", gate=False
    )
    codes = 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 192 * 128)
    assert outcome.stored_codes is not None
    assert (outcome.stored_codes["codes"], outcome.stored_codes["changed"]) == (codes, 0)

    again, copy = handed_back(rounded(), source=str(folder), as_stored=stored)
    assert again.recipe == "as-stored"
    assert again.stored_codes["codes"] == codes
    assert f"all {codes:,} stored codes are carried over unchanged" in again.notes
    first, second = (
        safetensors.numpy.load_file(each / "model.safetensors") for each in (folder, copy)
    )
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


def test_codes_that_are_stored_are_not_chosen_anew_unasked(
    handed_back: Callable[..., tuple[Any, Path]],
) -> None:
    _, folder = handed_back(rounded(weights(8)))
    with pytest.raises(RecipeError, match=r"stores those of 14 weights\. --recipe as-stored"):
        handed_back(rounded(weights()), source=str(folder))
    outcome, _ = handed_back(rounded(weights()), source=str(folder), allow_lossy=True)
    assert outcome.stored_codes["changed"] == outcome.stored_codes["codes"] > 0


def test_the_gate_compares_what_reads_back(
    handed_back: Callable[..., tuple[Any, Path]], evaluation_text: str
) -> None:
    judged = {"gate": True, "evaluation_text": evaluation_text, "threads": 1}
    outcome, folder = handed_back(rounded(weights()), **judged)
    assert 0 < outcome.language.kl_divergence < 9
    assert [verdict.passed for verdict in outcome.verdicts] == [True] * 3
    assert outcome.speed is None
    again = check_output(folder, evaluation_text=evaluation_text, threads=1)
    assert again.language == outcome.language
    assert verify(folder) == []
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "generation_config.json", "manifest.json", "model.safetensors",
        "report.html", "report.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_nothing_is_written_when_the_gate_fails(
    source: str, evaluation_text: str, tmp_path: Path
) -> None:
    strict = rounded(weights(2, "per-tensor", True), "gate={kl_divergence: 0.0001}")
    with pytest.raises(GateFailedError, match="kl divergence"):
        compile_model(
            source,
            tmp_path / "out",
            recipe=strict,
            target="huggingface",
            evaluation_text=evaluation_text,
            threads=1,
        )
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_named_to_be_ignored_and_stays_as_it_was(
    source: str, handed_back: Callable[..., tuple[Any, Path]]
) -> None:
    _, folder = handed_back(rounded(weights(), "keep=[model.layers.1.*]"))
    config = json.loads((folder / "config.json").read_text())
    quantization = config["quantization_config"]
    ignored = {name for name in quantization["ignore"] if name.startswith("model.layers.1.")}
    assert len(ignored) == 7
    assert set(quantization["ignore"]) == ignored | {"lm_head"}
    (group,) = quantization["config_groups"].values()
    assert len(group["targets"]) == 7
    before = open_checkpoint(source)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    kept = [name for name in before.tensors if name in tensors]
    assert len(kept) == 3 + 2 * 2 + 7
    for name in kept:
        np.testing.assert_array_equal(tensors[name], before.read(name))


def test_a_dtype_holds_for_all_that_is_in_float(
    handed_back: Callable[..., tuple[Any, Path]],
) -> None:
    _, folder = handed_back(rounded(weights(symmetric=True)), dtype="bfloat16")
    written = open_checkpoint(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert {spec.dtype.name for spec in written.tensors.values()} == {"bfloat16"}
    assert written.matrix(Q_PROJ).scales.dtype == ml_dtypes.bfloat16


def test_an_encoder_is_handed_back_without_its_head(
    encoder: Any, sentences: str, handed_back: Callable[..., tuple[Any, Path]]
) -> None:
    gate = "gate={hidden_cosine: 0.5, embedding_cosine: 0.5, similarity_correlation: 0.1}"
    recipe = load_recipe("w4a16-rtn", [*ROUNDED, weights(8, "per-channel"), gate])
    options = {"gate": True, "evaluation_text": sentences, "threads": 1}
    outcome, folder = handed_back(recipe, source=str(encoder.checkpoint.source), **options)
    assert outcome.encoding.hidden_cosine > 0.99
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertModel"]
    assert (folder / "1_Pooling").is_dir()


REFUSED = {
    "activations": ("w8a8-smoothquant", [], "activations must be null"),
    "kv_cache": ("w4a16-rtn", ["kv_cache={granularity: per-tensor}"], "kv_cache must be null"),
    "head": ("w4a16-rtn", ["head={bits: 8, group_size: 32, symmetric: true}"], "head must be keep"),
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_the_format_has_no_form_for_is_refused_before_anything_is_read(
    field: str, handed_back: Callable[..., tuple[Any, Path]]
) -> None:
    name, changes, words = REFUSED[field]
    with pytest.raises(TargetError, match=words):
        handed_back(load_recipe(name, changes), source="nowhere")


def test_a_folder_that_is_not_there_is_named(
    handed_back: Callable[..., tuple[Any, Path]],
) -> None:
    with pytest.raises(CheckpointError, match="nowhere does not exist"):
        handed_back(rounded(), source="./nowhere")
