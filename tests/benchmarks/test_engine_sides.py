"""Check what engines are built for their speed, and when that speed does not count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


def test_every_recipe_takes_its_changes_and_searches_nothing() -> None:
    from engine_sides import SIDES

    from castline.compiler.recipes.load import load_recipe

    for side in SIDES.values():
        assert not load_recipe(side.recipe, side.changes).needs_calibration


def test_sides_in_few_bits_have_groups_of_one_size() -> None:
    from engine_sides import SIDES

    from castline.compiler.recipes.load import load_recipe

    weights = [load_recipe(side.recipe, side.changes).weights for side in SIDES.values()]
    found = {(each.bits, each.group_size) for each in weights if each is not None}
    assert found == {(4, 128)}


def test_plugins_that_sides_name_are_ours() -> None:
    from engine_sides import SIDES

    from castline.plugins.linear_w4a8.packed import PACKED_LINEAR_W4A8_GROUPS
    from castline.plugins.linear_w4a16.packed import PACKED_LINEAR_W4A16

    named = {side.plugin for side in SIDES.values()} - {None}
    assert named == {PACKED_LINEAR_W4A16.name, PACKED_LINEAR_W4A8_GROUPS.name}


def test_the_form_is_that_of_production() -> None:
    from engine_sides import Form

    options = " ".join(Form("tensorrt-rtx", "8.9", 1024, 1216).options())
    for part in (
        "--target tensorrt-rtx",
        "--kv-cache fixed --logits last",
        "--kv-capacity 1216 --max-seq-len 1216",
        "--max-batch-size 1 --max-input-len 1024",
        "--compute-capability 8.9",
    ):
        assert part in options


@pytest.mark.parametrize(
    ("target", "capability"), [("tensorrt", "9.0"), ("tensorrt", None), ("tensorrt-rtx", None)]
)
def test_gpus_are_named_to_tensorrt_rtx_alone(target: str, capability: str | None) -> None:
    from engine_sides import Form

    assert "--compute-capability" not in Form(target, capability, 8, 64).options()


@pytest.mark.parametrize(
    ("installed", "gpu", "target"),
    [
        ({"tensorrt", "tensorrt_rtx"}, True, "tensorrt"),
        ({"tensorrt", "tensorrt_rtx"}, False, "tensorrt-rtx"),
        ({"tensorrt_rtx"}, True, "tensorrt-rtx"),
        ({"tensorrt"}, False, None),
        (set(), True, None),
    ],
)
def test_the_target_is_one_that_can_be_built_here(
    installed: set[str], gpu: bool, target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine_sides

    monkeypatch.setattr(engine_sides, "find_spec", lambda name: name in installed or None)
    assert engine_sides.target_here(gpu=gpu) == target


def test_a_cache_has_room_for_the_longest_prompt_and_its_answer() -> None:
    from engine_sides import room

    assert room([128, 1024], 129) == 1216
    assert room([60], 4) == 64
    assert room([60], 5) == 128


MANIFEST = {
    "engine": "model.engine",
    "edition": "tensorrt-rtx",
    "version": "1.7",
    "compute_capabilities": "default",
    "weights_kept_low_bit": True,
    "kv_cache": "fixed",
    "logits": "last",
    "plugins": {"layers": {"PackedLinearW4A16": 7}, "sha256": "0a1b"},
}
TOLD = {
    "bits_per_weight": 4.12345,
    "build_seconds": 10.04,
    "build_peak_memory_bytes": 900_000_000,
    "notes": ["a note"],
}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Have a compiler write an engine of 1 MB in no time; return what it was told."""
    import engine_sides

    told: list[list[str]] = []

    def compiled(command: list[str], environment: Mapping[str, str]) -> Any:
        assert environment == {"HF_HUB_OFFLINE": "1"}
        told.append(command)
        out = Path(command[command.index("-o") + 1])
        out.mkdir(parents=True)
        (out / "manifest.json").write_text(json.dumps({"build": MANIFEST}))
        (out / "model.engine").write_bytes(bytes(1_000_000))
        return SimpleNamespace(wall_s=20.04, stdout=json.dumps(TOLD))

    monkeypatch.setattr(engine_sides, "run_measured", compiled)
    return told


def test_what_was_built_is_told(commands: list[list[str]], tmp_path: Path) -> None:
    from engine_sides import OFFSETS, Form, build

    form = Form("tensorrt-rtx", None, 1024, 1216)
    built = build(OFFSETS, tmp_path / "model", form, tmp_path / "out", {"HF_HUB_OFFLINE": "1"})
    [command] = commands
    assert command[1:3] == ["compile", str(tmp_path / "model")]
    assert "--set algorithm=round-to-nearest --set" in " ".join(command)
    assert built["engine_mb"] == 1.0
    assert (built["compile_s"], built["build_s"], built["build_peak_mb"]) == (20.0, 10.0, 900.0)
    assert built["plugin_layers"] == {"PackedLinearW4A16": 7}
    assert (built["version"], built["plugin_library"]) == ("1.7", "0a1b")


@pytest.mark.usefixtures("commands")
def test_an_engine_with_the_plugins_of_another_side_is_no_side(tmp_path: Path) -> None:
    from engine_sides import BYTES, NATIVE, Form, build
    from process import BenchmarkError

    form = Form("tensorrt-rtx", None, 1024, 1216)
    offline = {"HF_HUB_OFFLINE": "1"}
    with pytest.raises(BenchmarkError, match="no layer of PackedLinearW4A8Groups is in the engine"):
        build(BYTES, tmp_path / "model", form, tmp_path / "out", offline)
    with pytest.raises(BenchmarkError, match="there are plugins in the engine"):
        build(NATIVE, tmp_path / "model", form, tmp_path / "out", offline)


@pytest.mark.parametrize("kept", [False, None])
def test_expanded_weights_are_not_few_bits(kept: bool | None) -> None:
    from engine_sides import FLOAT, NATIVE, require_named
    from process import BenchmarkError

    with pytest.raises(BenchmarkError, match="not stored in few bits"):
        require_named(NATIVE, {}, kept_low_bit=kept)
    require_named(FLOAT, {}, kept_low_bit=kept)


def test_agreement_is_of_places() -> None:
    from engine_sides import agreement

    assert agreement([1, 2, 3, 4], [1, 2, 4, 3]) == 0.5


def test_a_side_is_refused_for_other_tokens_than_it_is_to_choose() -> None:
    from engine_sides import refusal

    right, near = list(range(32)), [0] * 3 + list(range(3, 32))  # 0 is right at the first place
    far, wrong = [0] * 6 + list(range(6, 32)), [7] * 32
    assert refusal(right, right, right) is None
    assert refusal(near, right, right) is None
    assert refusal(far, None, None) is None, "nothing was to be the same"
    assert str(refusal(far, right, right)).startswith("chose torch's token at 84 % of 32 places")
    assert "its graph on ONNX Runtime's token at 3 %" in str(refusal(wrong, None, right))
