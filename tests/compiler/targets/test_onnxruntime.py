"""The lowered graph of every architecture computes what the neutral quantized graph computes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.write import write_model
from castline.errors import TargetError
from castline.exporters.decoder import decoder
from castline.progress import SilentProgress

Run = Callable[..., list[np.ndarray]]
CONTEXT = 512
INT4 = WeightScheme(4, 32, False)
ALL_SCHEMES = [
    WeightScheme(bits, group, symmetric)
    for bits, group, symmetric in itertools.product((4, 8), (32, 64, 128, None), (True, False))
]


def quantized(model: ir.Model, scheme: WeightScheme) -> ir.Model:
    QuantizeWeights(scheme)(model)
    return model


def lowered(model: ir.Model, accuracy_level: int = 1) -> tuple[str, ...]:
    """Lower in place; activations stay in float32 unless another accuracy level is given."""
    notes = OnnxRuntime().lower(model, CONTEXT)
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", accuracy_level)
    return notes


def worst(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """Return the largest error of any step, relative to the largest logit of that step."""
    steps = zip(found, wanted, strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in steps)


@pytest.fixture(scope="module")
def forms(
    tiny: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, Path]]:
    """Return the neutral quantized file of a decoder, and the lowered one."""
    made: dict[str, tuple[Path, Path]] = {}

    def of(name: str) -> tuple[Path, Path]:
        if name not in made:
            neutral = quantized(tiny(name).model(), INT4)
            model = quantized(tiny(name).model(), INT4)
            lowered(model)
            made[name] = (
                write_model(neutral, tmp_path_factory.mktemp("neutral")),
                write_model(model, tmp_path_factory.mktemp("lowered")),
            )
        return made[name]

    return of


@pytest.mark.parametrize("shared", [False, True], ids=["growing", "shared"])
@pytest.mark.parametrize("name", ["llama", "tied", "mistral", "qwen2", "qwen3"])
def test_the_lowered_graph_computes_what_the_neutral_one_does(
    forms: Callable[[str], tuple[Path, Path]],
    run_steps: Run,
    scenarios: dict[str, Any],
    name: str,
    shared: bool,
) -> None:
    neutral, low = forms(name)
    errors = {
        scenario: worst(run_steps(low, steps, shared=shared), run_steps(neutral, steps))
        for scenario, steps in scenarios.items()
    }
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("scheme", ALL_SCHEMES, ids=str)
def test_every_scheme_runs_in_both_forms_alike(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    scenarios: dict[str, Any],
    scheme: WeightScheme,
) -> None:
    model = quantized(tiny("llama").model(), scheme)
    neutral = written(model)
    model = quantized(tiny("llama").model(), scheme)
    assert lowered(model) == ()
    low = written(model)
    steps = scenarios["left padding"]
    assert worst(run_steps(low, steps), run_steps(neutral, steps)) <= 1e-4


def test_a_k_that_no_block_divides_is_noted_and_multiplied_in_float(
    tiny: Callable[[str], Any],
) -> None:
    model = quantized(tiny("tied").model(), INT4)
    reason = "K = 100 has no divisor between 16 and 256 that is a power of two"
    assert lowered(model) == (f"2 nodes multiplied in float: {reason}",)
    operators = [node.op_type for node in model.graph]
    # The head is not quantized and both down projections stay behind a DequantizeLinear.
    assert operators.count("MatMul") == 3
    assert operators.count("DequantizeLinear") == 2
    # Query, key and value are one; output, gate and up.
    assert operators.count("MatMulNBits") == 2 * 4


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_float16_graph_computes_what_the_neutral_one_does(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    scenarios: dict[str, Any],
    name: str,
) -> None:
    checkpoint = tiny(name).checkpoint
    half = ir.DataType.FLOAT16
    neutral = written(quantized(decoder(checkpoint, half).model, INT4))
    model = quantized(decoder(checkpoint, half).model, INT4)
    lowered(model)
    low = written(model)
    for scenario in ("decode", "left padding"):
        steps = scenarios[scenario]
        # Eleven bits of fraction, rounded after each of some tens of operations.
        assert worst(run_steps(low, steps), run_steps(neutral, steps)) <= 1e-2


def test_activations_in_int8_stay_near(
    tiny: Callable[[str], Any],
    forms: Callable[[str], tuple[Path, Path]],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    scenarios: dict[str, Any],
) -> None:
    neutral, _ = forms("llama")
    model = quantized(tiny("llama").model(), INT4)
    lowered(model, accuracy_level=4)
    steps = scenarios["decode"]
    # 8 bits keep a block's inputs to 1 / 254; two layers of seven products add up.
    assert worst(run_steps(written(model), steps), run_steps(neutral, steps)) <= 0.05


def test_a_float_recipe_is_lowered_too(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    scenarios: dict[str, Any],
) -> None:
    model = tiny("llama").model()
    assert OnnxRuntime().lower(model, CONTEXT) == ()
    steps = scenarios["left padding"]
    neutral = run_steps(tiny("llama").graph, steps)
    assert worst(run_steps(written(model), steps), neutral) <= 1e-4


def test_the_runtime_refuses_a_prompt_in_pieces_for_a_batch(
    forms: Callable[[str], tuple[Path, Path]], scenarios: dict[str, Any]
) -> None:
    """ONNX Runtime's limit, kept here so that its end is noticed."""
    _, low = forms("llama")
    ids, _ = scenarios["decode"][0]
    decoding = DecoderSession.open(low, threads=1).begin(2, 10)
    decoding.step(ids[:, :4])
    with pytest.raises(TargetError, match="batch_size must be 1"):
        decoding.step(ids[:, 4:7])


def test_refuses_bfloat16_before_any_work() -> None:
    OnnxRuntime().require(load_recipe("w4a16-rtn", ()))
    OnnxRuntime().require_dtype(ir.DataType.FLOAT16)
    with pytest.raises(TargetError, match=r"no bfloat16 kernels on CPUs\. Use --dtype float32"):
        OnnxRuntime().require_dtype(ir.DataType.BFLOAT16)


def test_nothing_is_built_beyond_the_model(tmp_path: Path) -> None:
    assert OnnxRuntime().build(tmp_path, CONTEXT, SilentProgress()).facts == {}
    assert list(tmp_path.iterdir()) == []
