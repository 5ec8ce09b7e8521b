"""Build one engine in a process of its own: a JSON job comes in, a JSON outcome goes out."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from polygraphy.exception import PolygraphyException

from castline.compiler.targets.tensorrt import child
from castline.compiler.targets.tensorrt.builder_config import NoSuchOptionError
from castline.compiler.targets.tensorrt.child import (
    PluginLayersError,
    peak_memory,
    plugin_layers,
)
from castline.compiler.targets.tensorrt.job import Job, Outcome
from castline.errors import TargetError

Main = Callable[[Callable[[Job], Outcome]], dict[str, Any]]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Main:
    """Run `main` with another builder and return the outcome it wrote."""

    def run(build: Callable[[Job], Outcome]) -> dict[str, Any]:
        outcome = tmp_path / "outcome.json"
        job = {
            "model": "model.onnx",
            "engine": "model.engine",
            "outcome": str(outcome),
            "profiles": [{"input_ids": [[1, 1], [1, 8], [4, 64]]}],
            "compute_capabilities": ["8.9"],
            "parent": 1,
        }
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(job)))
        monkeypatch.setattr(child, "die_with", lambda _parent: None)
        monkeypatch.setattr(child, "build", build)
        child.main()
        written: dict[str, Any] = json.loads(outcome.read_text())
        return written

    return run


def test_the_facts_of_an_engine_are_the_outcome(main: Main) -> None:
    def build(job: Job) -> Outcome:
        assert job.profiles == [{"input_ids": [[1, 1], [1, 8], [4, 64]]}]
        return Outcome(version="1.7", peak_memory=5, layers={"CAST": 2})

    written = main(build)
    assert written["layers"] == {"CAST": 2}
    assert (written["failed"], written["declined"], written["unwritable"]) == ("", "", "")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (PolygraphyException("could not parse"), "failed"),
        (PluginLayersError("1 of 2 nodes did not become plugin layers"), "failed"),
        (TargetError("the plugin library cannot be loaded"), "failed"),
        (NoSuchOptionError("9.9 is unknown"), "declined"),
        (OSError(28, "No space left on device"), "unwritable"),
    ],
)
def test_what_went_wrong_is_the_outcome(main: Main, error: Exception, kind: str) -> None:
    def build(_job: Job) -> Outcome:
        raise error

    assert main(build)[kind] == str(error)


def network(*layers: tuple[str, str]) -> SimpleNamespace:
    """Return what stands for a network of layers, each a name and a type."""
    made = [SimpleNamespace(name=name, type=SimpleNamespace(name=kind)) for name, kind in layers]
    return SimpleNamespace(num_layers=len(made), get_layer=made.__getitem__)


def test_layers_of_plugins_are_counted_by_op() -> None:
    parsed = network(("up", "PLUGIN_V3"), ("up.weight", "CONSTANT"), ("down", "PLUGIN_V3"))
    nodes = {"up": "PackedLinearW8A8", "down": "PackedLinearW8A8"}
    assert plugin_layers(parsed, nodes) == {"PackedLinearW8A8": 2}
    assert plugin_layers(parsed, {}) == {}


def test_a_node_that_became_its_body_is_named() -> None:
    parsed = network(("up", "PLUGIN_V3"), ("down", "MATRIX_MULTIPLY"))
    nodes = {"up": "PackedLinearW8A8", "down": "PackedLinearW4A8"}
    with pytest.raises(PluginLayersError, match=r"^1 of 2 nodes .*: down \(PackedLinearW4A8\)$"):
        plugin_layers(parsed, nodes)


def test_a_child_whose_parent_is_gone_ends_at_once() -> None:
    code = (
        "from castline.compiler.targets.tensorrt.child import die_with\n"
        "die_with(0)\nprint('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")


def test_peak_memory_never_falls() -> None:
    before = peak_memory()
    grown = bytearray(64 * 2**20)
    assert len(grown) < peak_memory()
    del grown
    assert peak_memory() >= before
