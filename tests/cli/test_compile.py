from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from castline.cli.compile import Target
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.catalogue import TARGETS
from castline.compiler.targets.options import TargetOptions
from castline.compiler.to_huggingface import HUGGINGFACE
from castline.errors import GateFailedError, TargetError

# A whole process whose pipeline waits in the middle of writing.
WAITING = """
import sys, time
from types import ModuleType
from castline.cli.app import main
from castline.compiler.package.publish import publishing

def compile_model(source, output, **options):
    with publishing(output, overwrite=False) as folder:
        (folder / "model.onnx").write_text("half")
        print("writing", flush=True)
        time.sleep(60)

stand_in = ModuleType("castline.compiler.pipeline")
stand_in.compile_model = compile_model
sys.modules["castline.compiler.pipeline"] = stand_in
main()
"""


def test_passes_on_what_was_asked(run: Any, pipeline: Any, tmp_path: Path) -> None:
    result = run(
        "compile", "model.gguf", "-o", tmp_path / "out", "--recipe", "w8a16-rtn",
        "--target", "tensorrt-rtx", "--set", "weights.bits=4", "--set", "weights.group_size=64",
        "--dtype", "float16", "--overwrite", "--threads", "2",
        "--evaluation-text", "held-out.txt", "--allow-lossy", "--plugins", "never",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    recipe = pipeline.asked.pop("recipe")
    assert recipe.weights_scheme == WeightScheme(bits=4, group_size=64, symmetric=True)
    del pipeline.asked["progress"]
    assert pipeline.asked == {
        "source": "model.gguf",
        "output": tmp_path / "out",
        "target": "tensorrt-rtx",
        "options": TargetOptions(plugins="never"),
        "plan": None,
        "device": "cpu",
        "dtype": "float16",
        "evaluation_text": "held-out.txt",
        "gate": True,
        "as_stored": None,
        "allow_lossy": True,
        "overwrite": True,
        "threads": 2,
        "trust_remote_code": False,
    }


def test_has_defaults_for_everything_but_the_output(run: Any, pipeline: Any) -> None:
    assert run("compile", "model.gguf", "-o", "out").exit_code == 0
    assert pipeline.asked["recipe"].name == "w4a16-rtn"
    assert pipeline.asked["target"] == "onnxruntime"
    assert pipeline.asked["gate"]
    assert not pipeline.asked["trust_remote_code"]
    assert run("compile", "model.gguf").exit_code == 2


def test_a_quantized_checkpoint_is_carried_over_where_nothing_else_is_asked(
    run: Any, pipeline: Any
) -> None:
    assert run("compile", "m", "-o", "o", "--set", "gate.kl_divergence=0.5").exit_code == 0
    assert pipeline.asked["as_stored"].as_stored
    assert pipeline.asked["as_stored"].gate.kl_divergence == 0.5
    assert not pipeline.asked["allow_lossy"]
    for asked in (["--recipe", "w8a16-rtn"], ["--set", "weights.bits=8"]):
        assert run("compile", "m", "-o", "o", *asked).exit_code == 0
        assert pipeline.asked["as_stored"] is None


def test_a_plan_brings_its_recipe_unless_one_is_named(
    run: Any, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def planned(folder: Path, changes: list[str]) -> Recipe:
        found.append((folder, changes))
        return load_recipe("w8a8-smoothquant")

    monkeypatch.setattr("castline.compiler.planning.planned_recipe", planned)
    result = run(
        "compile", "m", "-o", "out", "--plan", "plans/a", "--set", "gate.perplexity_ratio=2"
    )
    assert result.exit_code == 0, result.stderr
    assert found == [(Path("plans/a"), ["gate.perplexity_ratio=2"])]
    assert pipeline.asked["plan"] == Path("plans/a")
    assert pipeline.asked["recipe"].name == "w8a8-smoothquant"
    result = run("compile", "m", "-o", "out", "--plan", "plans/a", "-r", "w8a8-smoothquant-o3")
    assert pipeline.asked["recipe"].name == "w8a8-smoothquant-o3"
    assert len(found) == 1


def test_the_calibration_text_is_a_field_of_the_recipe(run: Any, pipeline: Any) -> None:
    assert run("compile", "m", "-o", "out", "--calibration-text", "a b.txt").exit_code == 0
    assert pipeline.asked["recipe"].calibration.text == "a b.txt"


def test_takes_options_in_snake_case(run: Any, pipeline: Any) -> None:
    assert run("compile", "m", "-o", "out", "--evaluation_text=a").exit_code == 0
    assert pipeline.asked["evaluation_text"] == "a"


def test_without_gate_there_is_nothing_to_run(run: Any, pipeline: Any) -> None:
    assert run("compile", "m", "-o", "out", "--no-gate").exit_code == 0
    assert pipeline.asked["gate"] is False
    pipeline.asked = {}
    result = run("compile", "m", "-o", "out", "--no-gate", "--threads", "2")
    assert (result.exit_code, pipeline.asked) == (2, {})
    assert "--threads would have no effect" in " ".join(result.stderr.split())
    result = run("compile", "m", "-o", "out", "--no-gate", "--threads=2", "--evaluation-text=a")
    assert "--evaluation-text and --threads" in " ".join(result.stderr.split())


def test_shows_the_original_beside_the_result(run: Any, pipeline: Any) -> None:
    assert pipeline.failure is None
    lines = [" ".join(line.split()) for line in run("compile", "m", "-o", "o").stdout.splitlines()]
    assert "perplexity 42.48 57.50" in lines
    assert "size (original in float32) 538 MB 86.4 MB" in lines
    assert "prefill, tokens/s 1,201 1,205" in lines
    assert "decode, tokens/s 70.2 239" in lines
    assert "KL divergence 0.251" in lines
    assert "same likeliest token 74.5 %" in lines
    assert "bits per weight 4.62" in lines
    assert "gate: passed (kl divergence 0.251, at most 0.5)" in lines
    assert "note: group 128 does not divide K=576: 64 used for 180 linears" in lines
    assert "not executed: the engine: this machine has no GPU" in lines


def test_json_is_one_document_and_nothing_else(run: Any, pipeline: Any) -> None:
    assert pipeline.failure is None
    result = run("compile", "m", "-o", "o", "--json")
    document = json.loads(result.stdout)
    assert document["language"]["perplexity"] == 57.5
    assert document["verdicts"][0]["passed"] is True
    assert result.stderr == ""


def test_a_failed_gate_has_its_own_exit_code(run: Any, pipeline: Any) -> None:
    pipeline.failure = GateFailedError("kl divergence is 0.7, must be at most 0.5")
    result = run("compile", "m", "-o", "o")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "error: kl divergence is 0.7, must be at most 0.5\n"


def test_a_wrong_recipe_is_refused_before_the_pipeline_is_asked(run: Any, pipeline: Any) -> None:
    result = run("compile", "m", "-o", "o", "--set", "weights.bits=1")
    assert result.exit_code == 1
    assert "weights.bits: expected a whole number from 2 to 8; found 1" in result.stderr
    assert pipeline.asked == {}


def test_offers_every_target_that_there_is() -> None:
    assert get_args(Target) == (*(target.name for target in TARGETS), HUGGINGFACE)


def test_an_unknown_target_is_wrong_usage(run: Any, pipeline: Any) -> None:
    result = run("compile", "m", "-o", "o", "--target", "tensorrt-rtz")
    assert (result.exit_code, pipeline.asked) == (2, {})
    assert "tensorrt-rtx" in result.stderr


def test_errors_are_words_and_debug_adds_the_traceback(run: Any, pipeline: Any) -> None:
    pipeline.failure = TargetError("TensorRT-RTX is not installed")
    result = run("compile", "m", "-o", "o")
    assert (result.exit_code, result.stderr) == (1, "error: TensorRT-RTX is not installed\n")
    result = run("compile", "m", "-o", "o", "--debug")
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "error: TensorRT-RTX is not installed" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, "compile", "m", "-o", str(tmp_path / "a" / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_COLOR": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        _rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == "error: interrupted: nothing was written.\n"
    assert list(tmp_path.iterdir()) == []
