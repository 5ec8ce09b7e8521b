"""Tell TensorRT's builder what a job asks for, inside the builder's process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from castline.compiler.targets.tensorrt import environment
from castline.compiler.targets.tensorrt.build import build_engine
from castline.compiler.targets.tensorrt.builder_config import (
    NoSuchOptionError,
    builder_config,
    network_from,
)
from castline.compiler.targets.tensorrt.edition import TENSORRT
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.engine_profiles import engine_profiles
from castline.compiler.targets.tensorrt.job import Job
from castline.errors import TargetError
from castline.progress import SilentProgress

FAKE = Path(__file__).parent / "fake"
CONTEXT = 64
Build = Callable[..., dict[str, Any]]


@pytest.fixture
def build(
    monkeypatch: pytest.MonkeyPatch, save_attention: Callable[..., Path], tmp_path: Path
) -> Build:
    """Build a decoder's core with a TensorRT that is played; return what its engine tells."""
    monkeypatch.syspath_prepend(FAKE)
    monkeypatch.setenv("PYTHONPATH", str(FAKE), prepend=":")
    monkeypatch.setattr(environment, "runnable_here", lambda: None)

    def built(version: str, **options: Any) -> dict[str, Any]:
        monkeypatch.setenv("FAKE_TENSORRT_VERSION", version)
        model = save_attention(external=True)
        chosen = EngineOptions(**options)
        facts = build_engine(
            model,
            tmp_path / "model.engine",
            edition=TENSORRT,
            profiles=engine_profiles(model, chosen, CONTEXT),
            options=chosen,
            progress=SilentProgress(),
        )
        assert facts.tensorrt_version == version
        told: dict[str, Any] = json.loads(facts.path.read_text())
        return told

    return built


@pytest.mark.parametrize("version", ["10.3.0", "11.4.0"])
def test_networks_are_strongly_typed_in_both_versions(build: Build, version: str) -> None:
    told = build(version)
    assert told["flags"] == []
    assert [one["inputs_embeds"][2][1] for one in told["profiles"]] == [64, 1]
    assert told["weights"].keys() == {"norm.weight", "heads", "merged"}


def test_what_was_chosen_reaches_the_builder(build: Build) -> None:
    told = build(
        "11.4.0",
        version_compatible=True,
        hardware_compatibility="same-compute-capability",
        workspace=1 << 30,
    )
    assert told["flags"] == ["VERSION_COMPATIBLE"]
    assert told["level"] == "SAME_COMPUTE_CAPABILITY"
    assert told["pools"] == {"WORKSPACE": 1 << 30}


def test_a_stripped_engine_has_no_weights(build: Build) -> None:
    told = build("10.14.1", strip_weights=True)
    assert told["flags"] == ["REFIT_IDENTICAL", "STRIP_PLAN"]
    assert told["weights"] == {}


def test_a_timing_cache_is_read_and_written(build: Build, tmp_path: Path) -> None:
    cache = tmp_path / "timing.cache"
    build("10.14.1", timing_cache=cache)
    assert cache.read_bytes() == b"timed;"
    build("10.14.1", timing_cache=cache)
    assert cache.read_bytes() == b"timed;timed;"


def test_what_a_version_lacks_is_said(build: Build) -> None:
    with pytest.raises(TargetError, match=r"same-compute-capability is unknown.*\(10\.3\.0\)"):
        build("10.3.0", hardware_compatibility="same-compute-capability")
    with pytest.raises(TargetError, match=r"9\.3\.0 has no strongly typed networks; 10\.0"):
        build("9.3.0")


def test_a_parser_that_takes_bodies_for_plugins_is_told() -> None:
    trt = SimpleNamespace(__version__="10.3.0", OnnxParserFlag=SimpleNamespace())
    job = Job("m", "e", "o", [], [], 1, plugin_nodes={"q_proj": "PackedLinearW4A16"})
    with pytest.raises(NoSuchOptionError, match=r"10\.3\.0 puts no plugin.*ENABLE_PLUGIN_OVERRI"):
        network_from(job, trt)


def test_an_unknown_capability_is_named_with_the_known_ones() -> None:
    members = {"NONE": 0, "CURRENT": 1, "SM89": 2, "SM120": 3}
    trt = SimpleNamespace(__version__="1.7", ComputeCapability=SimpleNamespace(__members__=members))
    job = Job("m", "e", "o", [], ["8.9", "3.5"], 1)
    with pytest.raises(NoSuchOptionError, match=r"3\.5 is unknown.*builds for 8\.9, 12\.0"):
        builder_config(job, trt)
