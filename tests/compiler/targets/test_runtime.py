"""ONNX Runtime is loaded with what was asked for, or the error says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from castline.compiler.targets.context import note_float_activations
from castline.compiler.targets.runtime import (
    FLOAT32_PRODUCTS,
    float32_from_ortvalue,
    inference_session,
    onnxruntime_module,
    runtime_errors,
    saturates,
)
from castline.errors import TargetError
from castline.plugins.linear_w4a8.packed import PACKED_LINEAR_W4A8
from castline.plugins.packing import pack

BFLOAT16 = onnx.TensorProto.BFLOAT16


@pytest.fixture
def model(tmp_path: Path) -> Path:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    one (float[N] x) => (float[N] y) { y = Abs (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_threads_reach_the_session(model: Path) -> None:
    session = inference_session(model, threads=3, providers=None)
    assert session.get_session_options().intra_op_num_threads == 3
    (y,) = session.run(None, {"x": np.array([-2.0], dtype=np.float32)})
    assert y.tolist() == [2.0]


def test_without_threads_the_runtime_decides(model: Path) -> None:
    session = inference_session(model, threads=None, providers=["CPUExecutionProvider"])
    assert session.get_session_options().intra_op_num_threads == 0
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_products_of_e4m3_codes_are_not_fused_to_products_of_bytes(tmp_path: Path) -> None:
    text = """<ir_version: 10, opset_import: ["" : 23]>
    linear (float[N, 2] x) => (float[N, 2] y)
    <float one = {1}, float8e4m3fn input_float8_zero = {0}, float8e4m3fn[2, 2] w = {1, 0, 0, 1}> {
        codes = QuantizeLinear (x, one, input_float8_zero)
        read = DequantizeLinear (codes, one, input_float8_zero)
        weights = DequantizeLinear (w, one)
        y = MatMul (read, weights)
    }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    session = inference_session(tmp_path / "model.onnx", 1, None)
    (y,) = session.run(None, {"x": np.array([[1.5, 1.1]], np.float32)})
    assert y.shape == (1, 2)


def test_products_stay_in_float_where_the_file_says_that_its_runtime_has_them_so(
    model: Path,
) -> None:
    key, value = FLOAT32_PRODUCTS
    as_shipped = inference_session(model, 1, None).get_session_options()
    with pytest.raises(RuntimeError, match="does not have configuration"):
        as_shipped.get_session_config_entry(key)
    noted = ir.load(model)
    note_float_activations(noted)
    ir.save(noted, model)
    judged = inference_session(model, 1, None).get_session_options()
    assert judged.get_session_config_entry(key) == value


def test_packed_weights_are_unpacked_before_they_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = np.random.default_rng(0).integers(-8, 8, (16, 64)).astype(np.int8)
    text = """<ir_version: 10, opset_import: ["" : 23, "castline" : 1]>
    g (int8[M, 64] codes, float[M, 1] scale) => (float[M, 16] y) <
        int8[1, 1, 512] packed, float[16] weight_scale, int8[16] weight_zero_point, float[16] bias
    > {
        y = castline.PackedLinearW4A8 <k = 64, n = 16, layout_version = 1> (
            codes, scale, packed, weight_scale, weight_zero_point, bias)
    }"""
    packed = ir.from_onnx_text(
        text,
        initializers=[
            ir.tensor(pack(codes, 4), name="packed"),
            ir.tensor(np.ones(16, np.float32), name="weight_scale"),
            ir.tensor(np.zeros(16, np.int8), name="weight_zero_point"),
            ir.tensor(np.zeros(16, np.float32), name="bias"),
        ],
    )
    PACKED_LINEAR_W4A8.define_in(packed)
    ir.save(packed, tmp_path / "model.onnx", external_data="model.onnx.data")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)  # Python asks once
    session = inference_session(tmp_path / "model.onnx", 1, None)
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    feed = {"codes": np.eye(64, dtype=np.int8), "scale": np.ones((64, 1), np.float32)}
    (y,) = session.run(None, feed)
    assert y.tolist() == codes.T.tolist(), "the weights of a file that is gone"


def test_an_absent_provider_is_refused_with_those_there_are(model: Path) -> None:
    with pytest.raises(TargetError, match=r"no OtherExecutionProvider, only .*CPU"):
        inference_session(model, None, ["OtherExecutionProvider", "CPUExecutionProvider"])


def test_a_corrupt_model_gives_the_runtime_s_reason(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(TargetError, match=r"model\.onnx: ONNX Runtime cannot load it: .*rotobuf"):
        inference_session(tmp_path / "model.onnx", None, None)


def test_an_operator_that_nothing_runs_is_named_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text = """<ir_version: 10, opset_import: ["" : 21, "elsewhere" : 1]>
    one (float[N] x) => (float[N] y) { y = elsewhere.Unheard (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "model.onnx")
    with pytest.raises(TargetError, match=r"cannot load it: .*elsewhere:Unheard"):
        inference_session(tmp_path / "model.onnx", None, None)
    assert capfd.readouterr() == ("", "")


def test_missing_weights_are_named(tmp_path: Path) -> None:
    weights = onnx.numpy_helper.from_array(np.ones(4, dtype=np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Abs", ["w"], ["y"])],
        "one",
        [],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])],
        [weights],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    onnx.save(
        onnx.helper.make_model(graph, ir_version=10, opset_imports=opset),
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(TargetError, match=r"cannot load it: .*model\.onnx\.data"):
        inference_session(tmp_path / "model.onnx", None, None)


def test_every_refusal_is_an_exception_of_this_onnx_runtime() -> None:
    assert all(issubclass(error, Exception) for error in runtime_errors())


def test_without_onnx_runtime_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(TargetError, match=r"pip install onnxruntime, .*onnxruntime-gpu"):
        onnxruntime_module()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_tensors_come_back_as_float32(dtype: type) -> None:
    value = onnxruntime.OrtValue.ortvalue_from_numpy(np.array([[1.5, -2.0]], dtype=dtype))
    back = float32_from_ortvalue(value)
    assert back.dtype == np.float32
    assert back.tolist() == [[1.5, -2.0]]


def test_bfloat16_comes_back_as_float32() -> None:
    bits = torch.tensor([[1.5, -2.0]], dtype=torch.bfloat16).view(torch.int16).numpy()
    value = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, BFLOAT16)
    assert float32_from_ortvalue(value).tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx avx2", True),
        ("avx2 avx512_vnni", False),
        ("avx2 avx_vnni", False),
        ("asimd", False),
    ],
)
def test_sums_of_bytes_saturate_on_x86_without_vnni(
    tmp_path: Path, flags: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor: 0\nflags: {flags}\n")
    assert saturates(tmp_path / "cpuinfo") is expected
    assert not saturates(tmp_path / "absent")
