from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from castline.compiler.targets.tensorrt.cuda import Cuda
from castline.compiler.targets.tensorrt.engine import Engine
from castline.compiler.targets.tensorrt.engine_layout import (
    EngineLayout,
    engine_layout,
    with_seen_rows,
)
from castline.errors import TargetError


@pytest.fixture
def load(fake_gpu: ModuleType) -> Callable[[Path], Engine]:
    return lambda file: Engine(file, fake_gpu.FakeTensorRT(fake_gpu.FakeDriver()))


@pytest.fixture
def layout(
    engine_file: Callable[..., Path], load: Callable[[Path], Engine]
) -> Callable[..., EngineLayout]:
    return lambda *arguments: engine_layout(load(engine_file(*arguments)))


def test_a_growing_cache_holds_its_longest_past_and_a_piece_more(layout: Any) -> None:
    found = layout("growing")
    assert (found.fixed, found.batch, found.longest, found.vocabulary) == (False, 2, 8, 160)
    assert (found.room, found.reach, found.replayed) == (48, 41, ())
    shapes = found.shapes(2, 3, 10)
    assert shapes["input_ids"] == shapes["position_ids"] == (2, 3)
    assert shapes["attention_mask"] == (2, 13)
    assert shapes["past_key_values.0.key"] == (2, 2, 10, 32)
    assert "write_indices" not in shapes


def test_a_fixed_cache_has_the_same_shapes_whatever_it_holds(layout: Any) -> None:
    found = layout("fixed")
    assert (found.fixed, found.room, found.reach, found.replayed) == (True, 48, 48, (1,))
    shapes = found.shapes(1, 1, 10)
    assert shapes == found.shapes(1, 1, 30)
    assert (shapes["attention_mask"], shapes["write_indices"]) == ((1, 48), (1,))
    assert shapes["past_key_values.1.value"] == (1, 2, 48, 32)


def test_one_profile_for_all_lengths_is_not_replayed(layout: Any) -> None:
    assert layout("fixed", [(1, 8)]).replayed == ()


def test_an_engine_that_takes_no_single_token_reaches_no_further_than_one(layout: Any) -> None:
    assert layout("growing", [(4, 8)]).reach == 1


@pytest.mark.parametrize(("form", "alone"), [("growing", False), ("last", True)])
def test_one_row_of_logits_is_seen(layout: Any, form: str, alone: bool) -> None:
    assert layout(form).last_logits_alone == alone


@pytest.mark.parametrize(("form", "alone"), [("growing", False), ("last", True), ("sliced", True)])
def test_one_row_is_seen_once_inputs_have_shapes(
    engine_file: Callable[..., Path], fake_gpu: ModuleType, form: str, alone: bool
) -> None:
    driver = fake_gpu.FakeDriver()
    cuda = Cuda(driver)
    engine, stream = Engine(engine_file(form), fake_gpu.FakeTensorRT(driver)), cuda.stream()
    memory = cuda.allocate(engine.working_memory, "working")
    layout = engine_layout(engine)
    assert layout.reader == 0
    assert layout.last_logits_alone == (form == "last")
    seen = with_seen_rows(layout, engine.context(0, stream.handle, memory), 0)
    assert (seen.last_logits_alone, seen.vocabulary) == (alone, 160)


@pytest.mark.parametrize(
    ("form", "alias", "words"),
    [
        ("fixed", None, "present.1.key is in memory of its own, but a fixed cache is written over"),
        ("fixed", "past_key_values.0.key", "present.1.key is in past_key_values.0.key, but a fix"),
        ("growing", "past_key_values.1.key", "present.1.key is in past_key_values.1.key, but a ca"),
    ],
)
def test_caches_that_tensorrt_puts_elsewhere_are_refused(
    engine_file: Callable[..., Path], fake_gpu: ModuleType, form: str, alias: Any, words: str
) -> None:
    trt = fake_gpu.FakeTensorRT(fake_gpu.FakeDriver(), version="10.15.1.29")
    trt.aliases = {"present.1.key": alias}
    with pytest.raises(TargetError, match=f"TensorRT says of its outputs that {words}"):
        engine_layout(Engine(engine_file(form), trt))


GRAPH = '<ir_version: 10, opset_import: ["" : 21]> other (INPUTS) => (OUTPUTS) { BODY }'


def other_engine(folder: Path, fake_gpu: ModuleType, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), folder / "other.onnx")
    engine = folder / "model.engine"
    engine.write_bytes(fake_gpu.serialized(folder / "other.onnx", []))
    return engine


def test_an_encoder_is_refused_as_such(
    tmp_path: Path, fake_gpu: ModuleType, load: Callable[[Path], Engine]
) -> None:
    text = GRAPH.replace("INPUTS", "int64[B, S] input_ids")
    text = text.replace("OUTPUTS", "int64[B, S] last_hidden_state")
    engine = other_engine(
        tmp_path, fake_gpu, text.replace("BODY", "last_hidden_state = Abs (input_ids)")
    )
    with pytest.raises(TargetError, match="is an encoder's engine: it gives a vector for each"):
        engine_layout(load(engine))


def test_what_is_no_decoder_is_refused_with_all_that_is_wrong(
    tmp_path: Path, fake_gpu: ModuleType, load: Callable[[Path], Engine]
) -> None:
    text = GRAPH.replace("INPUTS", "float[B, S] x").replace("OUTPUTS", "float[B, S] y")
    engine = other_engine(tmp_path, fake_gpu, text.replace("BODY", "y = Abs (x)"))
    expected = r"has no input_ids, has no logits, has no past_key_values\.0\.key, wants x\. It has"
    with pytest.raises(TargetError, match=expected):
        engine_layout(load(engine))


def test_an_open_size_of_heads_is_refused(
    engine_graph: Callable[[str], Path],
    engine_file: Callable[..., Path],
    tmp_path: Path,
    load: Callable[[Path], Engine],
) -> None:
    model = onnx.load(engine_graph("growing"))
    for value in model.graph.input:
        if value.name.startswith("past"):
            value.type.tensor_type.shape.dim[1].dim_param = "heads"
    onnx.save(model, tmp_path / "open.onnx")
    engine = engine_file("growing")
    engine.write_text(
        engine.read_text().replace(str(engine_graph("growing")), str(tmp_path / "open.onnx"))
    )
    with pytest.raises(TargetError, match=r"past_key_values\.0\.key \[-1, -1, -1, 32\] or its log"):
        engine_layout(load(engine))
