"""Say of an engine what its manifest keeps, and what its user should know."""

from __future__ import annotations

from pathlib import Path

from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt.build import EngineFacts
from castline.compiler.targets.tensorrt.edition import TENSORRT
from castline.compiler.targets.tensorrt.engine_facts import engine_facts, engine_notes
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.compiler.targets.tensorrt.weights import WeightBytes, WeightJudgement

STRIPPED = EngineFacts(
    path=Path("out/model.engine"),
    bytes=1000,
    seconds=3.2,
    peak_memory_bytes=1_500_000_000,
    edition=TENSORRT,
    tensorrt_version="10.14.1",
    compute_capabilities=(),
    profiles=({"input_ids": Shapes((1, 1), (1, 8), (2, 16))},),
    layers={},
    plugin_layers={},
    weights=WeightJudgement(None, 0, WeightBytes(10, 10), "stripped"),
    stripped=True,
    remarks=(),
    log=Path("log"),
)


def test_the_gpu_of_the_build_is_what_an_engine_of_tensorrt_is_for() -> None:
    options = TargetOptions(
        engine=EngineOptions(strip_weights=True, version_compatible=True), kv_cache="fixed"
    )
    assert engine_facts(STRIPPED, options, None, "9.0") == {
        "engine": "model.engine",
        "edition": "tensorrt",
        "version": "10.14.1",
        "compute_capabilities": ["9.0"],
        "version_compatible": True,
        "hardware_compatibility": "none",
        "weights_stripped": True,
        "profiles": [{"input_ids": Shapes((1, 1), (1, 8), (2, 16))}],
        "weights_kept_low_bit": None,
        "plugins": None,
        "kv_cache": "fixed",
        "logits": "all",
    }


def test_notes_say_how_a_stripped_engine_gets_its_weights() -> None:
    weights, sizes = engine_notes(STRIPPED)
    assert "castline build OUT --refit puts them in" in weights
    assert "built in 3 s with 1.5 GB" in weights
    assert sizes == (
        "engine: takes batch 1 to 2, sequence 1 to 16; for compute capability that of the GPU it "
        "was built on"
    )
