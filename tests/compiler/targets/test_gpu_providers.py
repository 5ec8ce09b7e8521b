"""What ONNX Runtime's GPU providers have kernels for; the same graphs run on the CPU's here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.pipeline import compile_model
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.gpu_providers import (
    EXECUTION_PROVIDERS,
    lower_for_gpu,
    never_run,
    unsupported_on_gpu,
)
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.options import Provider, TargetOptions
from castline.compiler.targets.runtime import onnxruntime_module
from castline.compiler.targets.session import DecoderSession
from castline.errors import TargetError
from castline.exporters.export import export

CONTEXT = 64
INT4 = WeightScheme(4, 32, symmetric=True)
GPUS: tuple[Provider, ...] = ("cuda", "tensorrt-rtx")


def quantized(tiny: Callable[[str], Any]) -> ir.Model:
    model = export(tiny("llama").checkpoint, ir.DataType.FLOAT16).model
    QuantizeWeights(INT4)(model)
    return model


def operators(model: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in model.graph)


def test_cuda_gets_its_kernels(tiny: Callable[[str], Any]) -> None:
    model = quantized(tiny)
    assert lower_for_gpu(model, CONTEXT, "cuda") == ()
    found = operators(model)
    assert found["GroupQueryAttention"] == 2
    # Of each of two layers four, as query, key and value are one, and so are gate and up.
    assert found["MatMulNBits"] >= 8
    assert found["SkipSimplifiedLayerNormalization"] == 4
    assert not {"DequantizeLinear", "MatMulIntegerToFloat", "If"} & set(found)


def test_tensorrt_rtx_gets_standard_operators_beside_its_attention(
    tiny: Callable[[str], Any],
) -> None:
    model = quantized(tiny)
    assert lower_for_gpu(model, CONTEXT, "tensorrt-rtx") == ()
    contrib = {node.op_type for node in model.graph if node.domain == "com.microsoft"}
    assert contrib == {"GroupQueryAttention"}
    assert operators(model)["DequantizeLinear"] >= 14


@pytest.mark.parametrize("provider", GPUS)
@pytest.mark.parametrize("scenario", ["prefill", "decode"])
def test_the_logits_stay_near_in_float16(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Callable[..., list[np.ndarray]],
    scenarios: dict[str, Any],
    provider: Provider,
    scenario: str,
) -> None:
    neutral = run_steps(written(quantized(tiny)), scenarios[scenario])
    model = quantized(tiny)
    lower_for_gpu(model, CONTEXT, provider)
    for found, wanted in zip(run_steps(written(model), scenarios[scenario]), neutral, strict=True):
        # Eleven bits of fraction, rounded after each of some tens of operations.
        assert np.abs(found - wanted).max() <= 1e-2 * np.abs(wanted).max()


@pytest.mark.parametrize("provider", GPUS)
def test_the_folder_says_for_which_provider_it_is(
    source: str, tmp_path: Path, provider: Provider
) -> None:
    name = {"cuda": "cuda", "tensorrt-rtx": "NvTensorRtRtx"}[provider]
    recipe = load_recipe("w4a16-rtn-sym", ("head=keep", "embedding=keep"))
    outcome = compile_model(
        source,
        tmp_path / "out",
        recipe=recipe,
        target="onnxruntime",
        options=TargetOptions(provider=provider),
        gate=False,
    )
    config = json.loads((tmp_path / "out" / "genai_config.json").read_text())
    (options,) = config["model"]["decoder"]["session_options"]["provider_options"]
    assert list(options) == [name]
    assert config["search"]["past_present_share_buffer"] is True
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["build"], manifest["dtype"]) == ({"provider": provider}, "float16")
    assert outcome.not_executed == (never_run(provider),)
    session = DecoderSession.open(tmp_path / "out", threads=1)
    assert len(list(session.generate(np.array([[1, 7, 30]]), max_new_tokens=4))) <= 4


def test_what_has_no_kernel_is_refused_before_any_work() -> None:
    def refused(recipe: str, provider: Provider, *changes: str) -> str:
        return "\n".join(unsupported_on_gpu(load_recipe(recipe, changes), provider))

    for provider in GPUS:
        assert refused("w4a16-rtn-sym", provider) == ""
    assert refused("w4a16-awq", "cuda") == ""
    assert refused("w8a8-smoothquant", "cpu") == ""
    assert "activations in codes" in refused("w8a8-smoothquant", "cuda")
    assert "--set reassembly=null" in refused("w4a4-qllm", "cuda")
    assert "--set attention=null" in refused("w4a4-qllm", "tensorrt-rtx", "attention.bits=8")
    assert "no zero-points" in refused("w4a16-rtn", "tensorrt-rtx")
    assert "at run time" in refused("w8a8-smoothquant", "tensorrt-rtx")
    assert refused("w8a8-smoothquant-static", "tensorrt-rtx") == ""
    target = OnnxRuntime(options=TargetOptions(provider="cuda"))
    with pytest.raises(TargetError, match="activations in codes"):
        target.require(load_recipe("w8a8-smoothquant", ()))


def test_codes_of_a_checkpoint_with_zero_points_are_refused(tiny: Callable[[str], Any]) -> None:
    def model() -> ir.Model:
        made = export(tiny("llama").checkpoint, ir.DataType.FLOAT16).model
        QuantizeWeights(WeightScheme(4, 32, symmetric=False))(made)
        return made

    lower_for_gpu(model(), CONTEXT, "cuda")
    with pytest.raises(TargetError, match=r"no kernels for 1[0-9] linears that have zero-points"):
        lower_for_gpu(model(), CONTEXT, "tensorrt-rtx")


def test_gpus_take_float16_and_no_float32() -> None:
    target = OnnxRuntime(options=TargetOptions(provider="cuda"))
    assert target.dtype == ir.DataType.FLOAT16
    target.require_dtype(target.dtype)
    with pytest.raises(TargetError, match="Use --dtype float16"):
        target.require_dtype(ir.DataType.FLOAT)


def test_what_was_not_run_is_told_where_the_provider_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = EXECUTION_PROVIDERS["cuda"]
    for available, told in (([], f"made for {name}"), ([name], None)):
        monkeypatch.setattr(
            onnxruntime_module(), "get_available_providers", lambda names=available: names
        )
        found = never_run("cuda")
        assert found is None if told is None else told in str(found)


@pytest.mark.gpu
def test_cuda_computes_what_the_cpu_does(
    tiny: Callable[[str], Any], written: Callable[[ir.Model], Path]
) -> None:
    model = quantized(tiny)
    lower_for_gpu(model, CONTEXT, "cuda")
    file = written(model)
    found = []
    for provider in ("cuda", "cpu"):
        name = EXECUTION_PROVIDERS[provider]  # type: ignore[index]
        decoding = DecoderSession.open(file, providers=[name]).begin(1, 16)
        found.append([decoding.step(np.array([ids])) for ids in ([1, 7, 30, 99], [4], [12])])
    for gpu, cpu in zip(*found, strict=True):
        # Eleven bits of fraction, rounded after each of some tens of operations.
        assert np.abs(gpu - cpu).max() <= 1e-2 * np.abs(cpu).max()
