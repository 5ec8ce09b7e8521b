"""The commands that are printed repeat the comparison, and notice when it is another."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from castline.compiler.check.any_pair import opened_sides
from castline.compiler.check.polygraphy_commands import (
    BuiltEngine,
    require_graph,
    saved_commands,
)
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.options import TargetOptions
from castline.errors import OutputError


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
        (command,) = saved_commands(both, pair, tmp_path / "in puts", layers=True)
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
        first, second = saved_commands(both, pair, tmp_path)
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
            first, second = saved_commands(both, pair, tmp_path / "inputs", layers=True)
    assert ("inputs/result/model.onnx" in second) == (form == {"logits": "last"})
    assert status(first) == 0
    assert status(second) == 0
    assert status(stricter(second)) != 0


def test_an_engine_is_run_where_there_is_a_gpu(
    sides: Any, source: str, quantized: Path, tmp_path: Path
) -> None:
    both = sides(source, quantized)
    library = tmp_path / "libcastline_plugins.so"
    with opened_sides(both) as pair:
        commands = [
            saved_commands(both, pair, tmp_path, engine=BuiltEngine(Path("e.engine"), rtx, plugins))
            for rtx, plugins in ((True, library), (False, None))
        ]
    (_, rtx), (_, full) = commands
    begin = "polygraphy run e.engine --model-type engine --trt"
    assert rtx.startswith(f"POLYGRAPHY_USE_TENSORRT_RTX=1 {begin} --plugins {library} --load")
    assert full.startswith(f"{begin} --load-inputs {tmp_path / 'inputs.json'} --load-outputs")
    assert "--atol logits:" in full


def test_a_result_that_is_no_graph_has_no_commands(sides: Any, source: str) -> None:
    with pytest.raises(OutputError, match="this is a checkpoint"):
        require_graph(sides(source, source))
