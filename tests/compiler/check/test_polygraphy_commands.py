"""The commands that are printed repeat the comparison, and notice when it is another."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from polygraphy.comparator import RunResults
from polygraphy.json import load_json

from castline.compiler.check.any_pair import opened_sides
from castline.compiler.check.engine_reading import BuiltEngine, built_engine
from castline.compiler.check.model_kind import named_model
from castline.compiler.check.polygraphy_commands import require_graph, saved_commands
from castline.compiler.package.manifest import read_manifest
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt import environment, target
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.hand_over import DECOMPOSABLE, hand_over
from castline.compiler.targets.tensorrt.profile import Profile, Range, model_shapes
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.compiler.targets.tensorrt.sizes import Sizes
from castline.errors import OutputError

BUILDER = Path(__file__).parents[1] / "targets" / "tensorrt" / "fake"


def status(command: str) -> int:
    """Run a command as a shell would, with the tools beside this Python; return its status."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, check=False)
    return done.returncode


def stricter(command: str) -> str:
    """Return the command with every tolerance a hundredth of what it is."""
    words = shlex.split(command)
    begin = words.index("--atol") + 1
    allowed = [word.rpartition(":") for word in words[begin:]]
    return shlex.join([*words[:begin], *(f"{n}:{float(v) / 100}" for n, _, v in allowed)])


def test_a_checkpoint_is_compared_by_its_saved_outputs(
    sides: Any, source: str, quantized: Path, tmp_path: Path
) -> None:
    both = sides(source, quantized)
    with opened_sides(both) as pair:
        (command,) = saved_commands(both, pair, tmp_path / "in puts", layers=True).commands
    assert sorted(path.name for path in (tmp_path / "in puts").iterdir()) == [
        "inputs.json",
        "original_outputs.json",
    ]
    assert "/model/layers.1/Add_1_output_0:" in command
    assert status(command) == 0
    assert status(stricter(command)) != 0


def test_two_graphs_are_run_one_after_another(
    sides: Any, exported: Path, quantized: Path, tmp_path: Path
) -> None:
    both = sides(exported, quantized)
    with opened_sides(both) as pair:
        first, second = saved_commands(both, pair, tmp_path).commands
    assert not (tmp_path / "original_outputs.json").exists()
    assert status(first) == 0
    assert json.loads((tmp_path / "original_outputs.json").read_text())
    assert status(second) == 0
    assert status(stricter(second)) != 0


@pytest.mark.parametrize("form", [{"logits": "last"}, {"kv_cache": "fixed"}])
def test_other_forms_of_graphs_are_run_as_they_are(
    sides: Any, exported: Path, source: str, tmp_path: Path, compiled: Any, form: dict[str, Any]
) -> None:
    target = "onnxruntime" if form.get("logits") else "onnx"
    options = TargetOptions(**form)
    compiled(source, tmp_path / "out", load_recipe("w8a16-rtn"), target=target, options=options)
    both = sides(exported, tmp_path / "out")
    for _ in range(2):  # the folder may be there already
        with opened_sides(both) as pair:
            saved = saved_commands(both, pair, tmp_path / "inputs", layers=True)
    first, second = saved.commands
    assert ("inputs/result/model.onnx" in second) == (form == {"logits": "last"})
    assert status(first) == 0
    assert status(second) == 0
    assert status(stricter(second)) != 0


@pytest.fixture
def engine_of(
    source: str, tmp_path: Path, compiled: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """Compile for a stand-in for TensorRT's builder; return the folder.

    Its engine is for the stand-in for TensorRT's runtime, beside this file: it computes what was
    handed over to the builder, with the profiles that the manifest tells.
    """
    shutil.copyfile(Path(__file__).with_name("fake_runtime.py"), tmp_path / "tensorrt.py")

    def made(sizes: Sizes | None = None, **form: Any) -> Path:
        monkeypatch.syspath_prepend(BUILDER)
        monkeypatch.setenv("PYTHONPATH", str(BUILDER))
        monkeypatch.setattr(environment, "runnable_here", lambda: None)
        monkeypatch.setattr(target, "device_capability", lambda: "8.9")
        options = TargetOptions(engine=EngineOptions(sizes or Sizes()), **form)
        folder = tmp_path / "out"
        compiled(source, folder, load_recipe("w8a16-rtn"), target="tensorrt", options=options)
        copies = tmp_path / "handed over"
        copies.mkdir()
        graph = hand_over(folder / "model.onnx", copies, logits=options.logits)
        _write_engine(folder, graph, copies / "engine.onnx")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return folder

    return made


def _write_engine(folder: Path, graph: Path, copy: Path) -> None:
    """Write the engine of `folder`: what it computes is `graph`, in a copy for ONNX Runtime."""
    model = onnx.load(graph, load_external_data=False)
    onnx.load_external_data_for_model(model, str(folder))
    for node in model.graph.node:
        for mark in [one for one in node.attribute if one.name == DECOMPOSABLE]:
            node.attribute.remove(mark)
    onnx.save(model, copy)
    profiles = read_manifest(folder)["build"]["profiles"]  # type: ignore[index]
    engine = {"graph": str(copy), "profiles": profiles}
    (folder / "model.engine").write_text(json.dumps(engine))


def _engine_of(folder: Path) -> BuiltEngine:
    built = built_engine(named_model(folder), read_manifest(folder), None)
    assert isinstance(built, BuiltEngine)
    return built


@pytest.mark.parametrize(
    ("form", "against"),
    [
        ({}, "checkpoint"),
        ({"logits": "last", "sizes": Sizes(max_input_len=6)}, "checkpoint"),
        ({"kv_cache": "fixed", "kv_capacity": 40}, "checkpoint"),
        ({"kv_cache": "fixed", "kv_capacity": 40, "logits": "last"}, "graph"),
    ],
    ids=str,
)
def test_the_command_of_an_engine_runs_it_in_its_own_form(
    sides: Any,
    source: str,
    exported: Path,
    engine_of: Callable[..., Path],
    tmp_path: Path,
    form: dict[str, Any],
    against: str,
) -> None:
    folder = engine_of(**form)
    both = sides(source if against == "checkpoint" else exported, folder)
    saved = tmp_path / "saved"
    with opened_sides(both) as pair:
        told = saved_commands(both, pair, saved, engine=_engine_of(folder))
    *others, command = told.commands
    assert (len(others), told.notes) == (1 if against == "checkpoint" else 2, ())
    assert [status(other) for other in others] == [0] * len(others)
    assert status(stricter(others[-1])) != 0
    assert status(command) == 0
    assert status(stricter(command)) != 0
    (inputs,) = load_json(str(saved / "engine_inputs.json"))
    assert inputs["input_ids"].shape == (1, 6 if "sizes" in form else 16)
    outputs = RunResults.load(str(saved / "engine_outputs.json"))
    logits = np.array(outputs[0][1][0]["logits"])
    assert logits.shape[:2] == (1, 1 if "logits" in form else 16)
    for wrong in (np.zeros_like(logits), logits[..., ::-1]):
        outputs[0][1][0]["logits"] = np.ascontiguousarray(wrong)
        outputs.save(str(saved / "engine_outputs.json"))
        assert status(command) != 0


def test_the_stand_in_notices_inputs_of_another_form(
    sides: Any, source: str, engine_of: Callable[..., Path], tmp_path: Path
) -> None:
    folder = engine_of(kv_cache="fixed", kv_capacity=40)
    both = sides(source, folder)
    with opened_sides(both) as pair:
        *_, command = saved_commands(both, pair, tmp_path, engine=_engine_of(folder)).commands
    assert status(command) == 0
    assert status(command.replace("engine_inputs", "inputs")) != 0
    assert status(command.replace("-profile 0", "-profile 1")) != 0


def test_an_engine_is_run_where_there_is_a_gpu(
    sides: Any, source: str, quantized: Path, tmp_path: Path
) -> None:
    both = sides(source, quantized)
    library = tmp_path / "libcastline_plugins.so"
    engines = [
        BuiltEngine(Path("e.engine"), rtx, plugins, (_profile(quantized, (1, 4)),))
        for rtx, plugins in ((True, library), (False, None))
    ]
    with opened_sides(both) as pair:
        commands = [saved_commands(both, pair, tmp_path, engine=one).commands for one in engines]
    (_, rtx), (_, full) = commands
    begin = "polygraphy run e.engine --model-type engine --trt"
    inputs = f"--optimization-profile 0 --load-inputs {tmp_path / 'engine_inputs.json'}"
    assert rtx.startswith(f"POLYGRAPHY_USE_TENSORRT_RTX=1 {begin} --plugins {library} {inputs}")
    outputs = tmp_path / "engine_outputs.json"
    assert full.startswith(f"{begin} {inputs} --load-outputs {outputs} --check-error-stat")
    assert "--atol logits:" in full
    assert [status(f"{one} --gen-script {tmp_path / 'run.py'}") for one in (rtx, full)] == [0, 0]


def test_an_engine_for_other_shapes_has_a_note_in_place_of_a_command(
    sides: Any, source: str, quantized: Path, tmp_path: Path
) -> None:
    profiles = (_profile(quantized, (4, 8)),)
    engine = BuiltEngine(tmp_path / "e.engine", is_rtx=True, plugins=None, profiles=profiles)
    both = sides(source, quantized)
    with opened_sides(both) as pair:
        saved = saved_commands(both, pair, tmp_path, engine=engine)
    (command,) = saved.commands
    assert status(command) == 0
    (note,) = saved.notes
    assert note.startswith(
        f"no polygraphy command runs the engine {engine.path}: it takes batch 4 to 8"
    )
    assert not (tmp_path / "engine_inputs.json").exists()


def _profile(folder: Path, rows: tuple[int, int]) -> dict[str, Shapes]:
    """Return the shapes of a graph's inputs: so many rows, 1 to 64 new tokens behind up to 64."""
    profile = Profile(Range(rows[0], *rows), Range(1, 16, 64), Range(0, 0, 64))
    return model_shapes(folder / "model.onnx", profile)[0]


def test_a_result_that_is_no_graph_has_no_commands(sides: Any, source: str) -> None:
    with pytest.raises(OutputError, match="this is a checkpoint"):
        require_graph(sides(source, source))
