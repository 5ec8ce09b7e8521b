"""A checkpoint becomes a checked folder, whole and the same every time, or nothing at all."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from castline.compiler import pipeline
from castline.compiler.package.manifest import verify
from castline.compiler.pipeline import compile_model, export_model
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.compiler.report.record import read_report
from castline.compiler.targets.encoder_session import EncoderSession
from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.target import Built
from castline.errors import (
    CheckpointError,
    GateFailedError,
    OutputError,
    TargetError,
)
from castline.exporters import trace as tracing

DYNAMIC = load_recipe("w8a8-smoothquant")  # plugins alone take scales from values
FORMS = list(itertools.product((4, 8), (32, 64, 128, "per-channel"), ("true", "false")))


@pytest.fixture
def no_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test whose run opens the checkpoint."""
    monkeypatch.setattr(pipeline, "open_checkpoint", lambda *_, **__: pytest.fail("was opened"))


def test_publishes_all_that_a_runtime_needs(published: tuple[CompileOutcome, Path]) -> None:
    _, output = published
    names = {path.name for path in output.iterdir()}
    assert names == {
        "config.json", "genai_config.json", "generation_config.json", "manifest.json",
        "model.onnx", "model.onnx.data", "report.html", "report.json", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert verify(output) == []
    assert [path.name for path in output.parent.iterdir()] == ["out"], "nothing is left beside it"
    tokens = DecoderSession.open(output, threads=1).generate(
        np.array([[1, 7, 30]]), max_new_tokens=5
    )
    assert len(list(tokens)) == 5


def test_the_outcome_tells_figures_sizes_and_speeds(published: tuple[CompileOutcome, Path]) -> None:
    outcome, output = published
    assert outcome.language is not None
    assert outcome.language.tokens == 8 * 511
    assert 0 < outcome.language.kl_divergence < 5
    assert [verdict.passed for verdict in outcome.verdicts] == [True] * 3
    assert outcome.bytes == sum(
        (output / f"model.onnx{end}").stat().st_size for end in ("", ".data")
    )
    assert getattr(outcome.speed, "threads", None) == 1
    parameters = 2 * 160 * 128 + 2 * (2 * 128 * 128 + 2 * 64 * 128 + 3 * 192 * 128 + 256) + 128
    assert outcome.original_bytes == 4 * parameters
    assert outcome.notes == ("group 128 does not divide K = 192: group 64 used for 2 matrices",)


def test_the_report_and_the_manifest_say_what_was_done(
    published: tuple[CompileOutcome, Path], evaluation_text: str
) -> None:
    outcome, output = published
    assert read_report(output) == json.loads(json.dumps(outcome.to_json()))
    manifest = json.loads((output / "manifest.json").read_text())
    assert manifest["target"] == "onnxruntime"
    weights = manifest["recipe"]["weights"]
    assert weights | {"bits": 4, "group_size": 128, "symmetric": False} == weights
    assert len(manifest["checkpoint_sha256"]) == 64
    assert manifest["evaluation_text"]["source"] == Path(evaluation_text).name
    assert {"onnx", "torch", "transformers"} < manifest["libraries"].keys()
    assert {"onnxruntime", "onnxruntime-gpu"} & manifest["libraries"].keys()
    assert "seconds" not in (output / "manifest.json").read_text()


def test_the_same_inputs_give_the_same_bytes(
    published: tuple[CompileOutcome, Path],
    source: str,
    evaluation_text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wide: Any,
) -> None:
    _, first = published
    monkeypatch.setattr(tracing, "trace", tracing.trace.__wrapped__)
    compile_model(
        source,
        tmp_path / "out",
        recipe=load_recipe("w4a16-rtn", wide),
        target="onnxruntime",
        evaluation_text=evaluation_text,
        threads=1,
    )
    for name in ("model.onnx", "model.onnx.data", "manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (first / name).read_bytes(), name


def test_a_failed_gate_names_the_numbers_and_publishes_nothing(
    source: str, evaluation_text: str, tmp_path: Path, compiled: Any, wide: Any
) -> None:
    recipe = load_recipe("w4a16-rtn", (*wide, "gate.kl_divergence=0.000001"))
    with pytest.raises(GateFailedError, match=r"kl divergence is 0\.\d+, must be at most 1e-06"):
        compiled(
            source, tmp_path / "out", recipe, gate=True, evaluation_text=evaluation_text, threads=1
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "stage",
    ["Opening the checkpoint", "Writing weights", "Comparing with the original", "Timing"],
)
def test_an_interrupted_run_leaves_nothing(
    source: str,
    evaluation_text: str,
    tmp_path: Path,
    stage: str,
    compiled: Any,
    interrupted_at: Any,
) -> None:
    with pytest.raises(KeyboardInterrupt):
        compiled(
            source,
            tmp_path / "out",
            gate=True,
            evaluation_text=evaluation_text,
            threads=1,
            progress=interrupted_at(stage),
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_checkpoint")
def test_an_output_that_exists_is_refused_before_any_work(
    source: str, tmp_path: Path, compiled: Any
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        compiled(source, tmp_path / "out")
    with pytest.raises(OutputError, match="exists already"):
        export_model(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("no_checkpoint")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {
                "target": "tensorrt-rtx",
                "recipe": DYNAMIC,
                "options": TargetOptions(plugins="never"),
            },
            "takes them at run time",
        ),
        ({"target": "tensor"}, "There is no target 'tensor'"),
    ],
)
def test_what_a_target_cannot_do_is_refused_before_any_work(
    source: str, tmp_path: Path, options: dict[str, Any], message: str, compiled: Any
) -> None:
    with pytest.raises(TargetError, match=message):
        compiled(source, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_checkpoint")
def test_without_a_runtime_to_compare_by_nothing_is_begun(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: Any
) -> None:
    def missing() -> None:
        raise TargetError("ONNX Runtime is not installed.")

    monkeypatch.setattr(pipeline, "onnxruntime_module", missing)
    with pytest.raises(TargetError, match="not installed"):
        compiled(source, tmp_path / "out", gate=True)
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_cannot_be_had_is_refused(
    source: str, tmp_path: Path, compiled: Any, interrupted_at: Any
) -> None:
    with pytest.raises(TargetError, match="no bfloat16 kernels"):
        compiled(source, tmp_path / "out", target="onnxruntime", dtype="bfloat16")
    with pytest.raises(TargetError, match="dtype is 'int4'; expected float32, float16, bfloat16"):
        compiled(source, tmp_path / "out", dtype="int4")
    begun = interrupted_at("Reading the evaluation text")
    with pytest.raises(TargetError, match="--no-gate to publish it unproved"):
        compiled(source, tmp_path / "out", dtype="bfloat16", gate=True, progress=begun)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.1.mlp.up_proj.weight",
        "model.embed_tokens.weight",
        "model.layers.0.input_layernorm.weight",
    ],
)
@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
def test_a_weight_that_is_nan_is_named_and_nothing_is_written(
    source: str, tmp_path: Path, name: str, target: str, compiled: Any, copy_with: Any
) -> None:
    def break_one(array: np.ndarray) -> None:
        array.reshape(-1)[3] = np.nan

    broken = copy_with(source, tmp_path / "broken", name, break_one)
    with pytest.raises(CheckpointError, match=f"{name} holds 1 of"):
        compiled(broken, tmp_path / "out", target=target)
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]


def test_a_weight_beyond_float16_is_named(
    source: str, tmp_path: Path, compiled: Any, copy_with: Any
) -> None:
    def enlarge(array: np.ndarray) -> None:
        array.reshape(-1)[3] = 1e5

    name = "model.layers.1.mlp.up_proj.weight"
    large = copy_with(source, tmp_path / "large", name, enlarge)
    with pytest.raises(CheckpointError, match=f"{name}: holds 1e\\+05, beyond float16"):
        compiled(large, tmp_path / "out", dtype="float16")


def test_without_a_tokenizer_only_an_ungated_run_succeeds(
    source: str, tmp_path: Path, compiled: Any
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(source, bare, ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        compiled(str(bare), tmp_path / "out", gate=True)
    outcome = compiled(str(bare), tmp_path / "out")
    assert (outcome.language, outcome.verdicts) == (None, ())
    assert any(note.startswith("no tokenizer was written") for note in outcome.notes)
    assert verify(tmp_path / "out") == []


def test_what_cannot_be_executed_here_is_not_timed(
    source: str,
    evaluation_text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: Any,
    interrupted_at: Any,
    wide: Any,
) -> None:
    built = Built(facts={}, not_executed=("The engine was not executed.",))
    monkeypatch.setattr(Onnx, "build", lambda *_: built)
    outcome = compiled(
        source,
        tmp_path / "out",
        load_recipe("w4a16-rtn", wide),
        gate=True,
        evaluation_text=evaluation_text,
        threads=1,
        progress=interrupted_at("Timing"),
    )
    assert (outcome.speed, outcome.original_speed) == (None, None)
    assert outcome.language is not None


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
@pytest.mark.parametrize(("bits", "group", "symmetric"), FORMS)
def test_every_scheme_compiles(
    source: str,
    tmp_path: Path,
    target: str,
    bits: int,
    group: object,
    symmetric: str,
    compiled: Any,
    w4: Any,
) -> None:
    fields = {"bits": bits, "group_size": group, "symmetric": symmetric}
    overrides = [f"weights.{name}={value}" for name, value in fields.items()]
    recipe = load_recipe("w4a16-rtn", (*w4, *overrides))
    outcome = compiled(source, tmp_path / "out", recipe, target=target)
    assert ("does not divide K = 192" in str(outcome.notes)) == (group == 128)
    operator = {"onnx": "DequantizeLinear", "onnxruntime": "MatMulNBits"}[target]
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    found = [node for node in graph.node if node.op_type == operator]
    assert len(found) == 2 * {"onnx": 7, "onnxruntime": 4}[target]


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
def test_groups_of_two_levels_are_summed_in_integers(
    source: str, evaluation_text: str, tmp_path: Path, target: str, compiled: Any, wide: Any
) -> None:
    section = "{bits: 4, group_size: 32, symmetric: true, two_level: true}"
    changed = (f"weights={section}", "algorithm=round-to-nearest")
    recipe = load_recipe("w8a8-smoothquant", (*wide, *changed))
    options = {"gate": True, "evaluation_text": evaluation_text, "threads": 1}
    outcome = compiled(source, tmp_path / "out", recipe, target=target, **options)
    assert outcome.language is not None
    assert outcome.language.kl_divergence < 0.05
    graph = ir.load(tmp_path / "out" / "model.onnx").graph
    counts = Counter(node.op_type for node in ir.traversal.RecursiveGraphIterator(graph))
    # ONNX Runtime joins query, key and value, gate and up, and chooses between two forms.
    many = {"onnx": {"LinearW4A8Groups": 14}, "onnxruntime": {"MatMulIntegerToFloat": 8}}[target]
    few = {"onnx": {"If": 0}, "onnxruntime": {"If": 1, "MatMulNBits": 8}}[target]
    assert {name: counts[name] for name in many | few} == many | few


@pytest.mark.parametrize("target", ["onnx", "onnxruntime"])
def test_head_and_embedding_are_quantized_when_the_recipe_says_so(
    source: str, evaluation_text: str, tmp_path: Path, target: str, compiled: Any, wide: Any
) -> None:
    section = "{bits: 8, group_size: 32, symmetric: false}"
    everything = [f"{kind}={section}" for kind in ("weights", "head", "embedding")]
    recipe = load_recipe("w8a16-rtn", (*wide, *everything))
    outcome = compiled(
        source,
        tmp_path / "out",
        recipe,
        target=target,
        gate=True,
        evaluation_text=evaluation_text,
        threads=1,
    )
    assert outcome.language is not None
    assert outcome.language.kl_divergence < 0.05
    graph = onnx.load(tmp_path / "out" / "model.onnx", load_external_data=False).graph
    names = {tensor.name for tensor in graph.initializer}
    assert not names & {"lm_head.weight", "model.embed_tokens.weight"}


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16"),
     ("checkpoint", "float32")],
)  # fmt: skip
def test_exports_the_float_graph_alone(
    source: str, tmp_path: Path, dtype: str, expected: str
) -> None:
    outcome = export_model(source, tmp_path / "out", dtype=dtype)
    assert (outcome.dtype, outcome.layers) == (expected, 2)
    assert outcome.architecture == "LlamaForCausalLM"
    assert outcome.notes == ()
    assert verify(tmp_path / "out") == []
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"config.json", "tokenizer.json"}
    onnx.checker.check_model(tmp_path / "out" / "model.onnx", full_check=True)


def test_too_little_memory_is_said_with_what_to_do(
    source: str,
    evaluation_text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    compiled: Any,
) -> None:
    monkeypatch.setattr(pipeline, "available_memory", lambda: 1000)
    with pytest.raises(TargetError, match="Use --no-gate to compile here"):
        compiled(source, tmp_path / "out", gate=True, evaluation_text=evaluation_text)
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_becomes_a_checked_folder(encoder: Any, sentences: str, tmp_path: Path) -> None:
    outcome = compile_model(
        encoder.checkpoint.source, tmp_path / "out", recipe=load_recipe("w8a16-rtn"),
        target="onnxruntime", evaluation_text=sentences, threads=1,
    )  # fmt: skip
    assert outcome.encoding is not None
    assert [verdict.passed for verdict in outcome.verdicts] == [True, True, True]
    assert outcome.notes[0].startswith("left out, as they stand on top of the model: cls.")
    assert {"1_Pooling", "modules.json"} < {path.name for path in (tmp_path / "out").iterdir()}
    with pytest.raises(TargetError, match="65 tokens given, but the model reads 64"):
        EncoderSession.open(tmp_path / "out", threads=1).hidden(np.ones((1, 65), np.int64))


def test_an_exported_mixture_multiplies_only_what_its_tokens_chose(
    sample: Callable[[str], Any], tmp_path: Path
) -> None:
    sample("mixtral").model.save_pretrained(tmp_path / "mixtral")
    export_model(str(tmp_path / "mixtral"), tmp_path / "out")
    stored = ir.load(tmp_path / "out" / "model.onnx").graph.initializers.values()
    assert max(len(value.shape) for value in stored if value.shape is not None) == 2
