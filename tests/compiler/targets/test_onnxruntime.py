"""The lowered graph of every architecture computes what the neutral quantized graph computes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM

from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.pipeline import compile_model
from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.load import load_recipe
from castline.compiler.targets.onnx import Onnx
from castline.compiler.targets.onnxruntime import OnnxRuntime
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.session import DecoderSession
from castline.compiler.targets.target import Lowered
from castline.compiler.targets.write import write_model
from castline.errors import TargetError
from castline.exporters.export import export
from castline.progress import SilentProgress

Run = Callable[..., list[np.ndarray]]
CONTEXT = 512
INT4 = WeightScheme(4, 32, False)
ALL_SCHEMES = [
    WeightScheme(bits, group, symmetric)
    for bits, group, symmetric in itertools.product(
        (4, 8), (32, 64, 128, "per-channel"), (True, False)
    )
]


def quantized(model: ir.Model, scheme: WeightScheme) -> ir.Model:
    QuantizeWeights(scheme)(model)
    return model


def lowered(model: ir.Model, accuracy_level: int = 1) -> tuple[str, ...]:
    """Lower in place; activations stay in float32 unless another accuracy level is given."""
    notes = OnnxRuntime().lower(model, CONTEXT).notes
    for node in model.graph:
        if node.op_type in ("MatMulNBits", "QMoE"):
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


@pytest.mark.parametrize("bits", [4, 8])
def test_every_architecture_computes_what_its_neutral_form_does(
    architecture: Any, run_steps: Run, bits: int, record_property: Any, tmp_path: Path
) -> None:
    scheme = WeightScheme(bits, 32, False)
    neutral = quantized(architecture.graph(), scheme)
    Onnx().lower(neutral, CONTEXT)
    low = quantized(architecture.graph(), scheme)
    notes = lowered(low)
    paths = (
        write_model(low, made(tmp_path / "low")),
        write_model(neutral, made(tmp_path / "neutral")),
    )
    steps = padded_steps(architecture.config.vocab_size)
    run = run_steps if architecture.skeleton.interface.cached else run_encoder
    error = worst(*(run(path, steps) for path in paths))
    record_property("architecture", architecture.name)
    record_property("weights", f"w{bits}a16")
    record_property("worst relative error", error)
    record_property("notes", "; ".join(notes))
    assert error <= 1e-4


@pytest.mark.parametrize("kind", ["static", "per token", "per tensor"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "odd"])
def test_quantized_activations_lose_nothing_more_in_the_lowered_graph(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    scenarios: dict[str, Any],
    activations: dict[str, Any],
    name: str,
    kind: str,
) -> None:
    scheme = WeightScheme(8, "per-channel", True)
    neutral, model = tiny(name).model(), tiny(name).model()
    activations[kind].quantized(neutral, scheme)
    names = activations[kind].quantized(model, scheme)
    notes = lowered(model)
    assert [note for note in notes if "attention" not in note] == []
    operators = [node.op_type for node in model.graph]
    joined = 4 if name == "llama" and kind != "static" else 0  # q, k and v of both layers
    gates = 2 if kind != "static" else 0  # with what they multiply
    assert operators.count("MatMulIntegerToFloat") == len(names) - joined - gates
    assert operators.count("MatMulNBits") == 0
    assert ("GroupQueryAttention" in operators) == (name != "odd")
    steps = scenarios["left padding"]
    found, wanted = run_steps(written(model), steps), run_steps(written(neutral), steps)
    # What lies between two codes may fall to the other: sums of floats are rounded.
    assert worst(found, wanted) <= 0.03
    assert all(
        np.median(np.abs(a - b)) <= 2e-3 * np.abs(b).max()
        for a, b in zip(found, wanted, strict=True)
    )


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def padded_steps(vocabulary: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return a prompt whose first row is padded on the left, and two further tokens."""
    random = np.random.default_rng(0)
    prompt = random.integers(3, vocabulary, (2, 12))
    mask = np.ones_like(prompt)
    mask[0, :5] = 0
    further = [random.integers(3, vocabulary, (2, 1)) for _ in range(2)]
    return [(prompt, mask), *((tokens, np.ones_like(tokens)) for tokens in further)]


def run_encoder(path: Path, steps: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    """Return the hidden states [tokens, hidden] of the first step, padding left out."""
    ids, mask = steps[0]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}
    (hidden,) = session.run(None, {node.name: feed[node.name] for node in session.get_inputs()})
    return [hidden[mask.astype(bool)]]


@pytest.mark.parametrize(("name", "mixtures"), [("mixtral", 3), ("qwen2_moe", 2), ("qwen3_moe", 2)])
def test_quantized_experts_are_one_node_that_computes_what_the_dense_ones_do(
    mixture_decoder: Callable[[str], ir.Model],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    mixture_scenarios: dict[str, Any],
    name: str,
    mixtures: int,
) -> None:
    neutral = written(quantized(mixture_decoder(name), INT4))
    model = quantized(mixture_decoder(name), INT4)
    assert lowered(model) == ()
    operators = [node.op_type for node in model.graph]
    assert operators.count("QMoE") == mixtures
    low = written(model)
    errors = {
        scenario: worst(run_steps(low, steps), run_steps(neutral, steps))
        for scenario, steps in mixture_scenarios.items()
    }
    assert max(errors.values()) <= 1e-4, errors


def test_experts_that_have_no_such_node_are_multiplied_one_by_one(
    mixture_decoder: Callable[[str], ir.Model],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    mixture_scenarios: dict[str, Any],
) -> None:
    def with_another_gate() -> ir.Model:
        model = quantized(mixture_decoder("mixtral"), INT4)
        for node in [node for node in model.graph if node.op_type == "Sigmoid"]:
            node.op_type = "HardSigmoid"
        return model

    neutral, model = written(with_another_gate()), with_another_gate()
    reason = "its experts are not gated by SiLU alone"
    assert lowered(model) == (f"3 nodes multiplied expert by expert: {reason}",)
    operators = [node.op_type for node in model.graph]
    assert operators.count("QMoE") == 0
    # Query, key and value are one, and output, in each layer; gate with up, and down of 4 experts.
    assert operators.count("MatMulNBits") == 3 * (2 + 2 * 4)
    assert "DequantizeLinear" not in operators
    steps = mixture_scenarios["left padding"]
    assert worst(run_steps(written(model), steps), run_steps(neutral, steps)) <= 1e-4


def test_float_experts_are_dispatched(
    mixture_decoder: Callable[[str], ir.Model],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    mixture_scenarios: dict[str, Any],
) -> None:
    neutral, model = written(mixture_decoder("mixtral")), mixture_decoder("mixtral")
    assert lowered(model) == ()
    assert "QMoE" not in [node.op_type for node in model.graph]
    low = written(model)
    for steps in mixture_scenarios.values():
        assert worst(run_steps(low, steps), run_steps(neutral, steps)) <= 1e-5


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
    # Query, key and value are one; output; gate and up are one.
    assert operators.count("MatMulNBits") == 2 * 3


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
    neutral = written(quantized(export(checkpoint, half).model, INT4))
    model = quantized(export(checkpoint, half).model, INT4)
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
    assert OnnxRuntime().lower(model, CONTEXT) == Lowered((), shares_cache=True)
    steps = scenarios["left padding"]
    neutral = run_steps(tiny("llama").graph, steps)
    assert worst(run_steps(written(model), steps), neutral) <= 1e-4


def test_a_head_size_that_the_attention_node_lacks_is_compiled_all_the_same(
    tiny: Callable[[str], Any], tmp_path: Path
) -> None:
    source = str(tiny("odd").checkpoint.source)
    recipe = load_recipe("float", ())
    output = tmp_path / "out"
    outcome = compile_model(source, output, recipe=recipe, target="onnxruntime", gate=False)
    reason = "its head size 24 is not a multiple of 16"
    assert outcome.notes == (f"2 nodes kept as standard attention: {reason}",)
    search = json.loads((output / "genai_config.json").read_text())["search"]
    assert search["past_present_share_buffer"] is False
    prompt = np.array([[1, 7, 30, 99, 4]])
    original = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    expected = original.generate(
        torch.from_numpy(prompt), do_sample=False, max_new_tokens=12, eos_token_id=None
    )
    tokens = DecoderSession.open(output, threads=1).generate(prompt, max_new_tokens=12)
    assert list(tokens) == expected[0, prompt.shape[1] :].tolist()


def test_no_cache_is_shared_where_one_attention_is_left_alone(
    tiny: Callable[[str], Any],
    written: Callable[[ir.Model], Path],
    run_steps: Run,
    scenarios: dict[str, Any],
) -> None:
    model = tiny("llama").model()
    attention = next(node for node in model.graph if node.op_type == "Attention")
    transpose = attention.inputs[0].producer().inputs[0].producer()
    query = ir.node("Identity", [transpose.outputs[0]])
    model.graph.insert_after(transpose, query)
    attention.inputs[0].producer().replace_input_with(0, query.outputs[0])
    low = OnnxRuntime().lower(model, CONTEXT)
    reason = "heads are not split and merged in the common way"
    assert low == Lowered((f"1 nodes kept as standard attention: {reason}",), shares_cache=False)
    steps = scenarios["decode"]
    assert worst(run_steps(written(model), steps), run_steps(tiny("llama").graph, steps)) <= 1e-4


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


def test_a_fixed_cache_is_refused_with_what_it_has_in_its_stead() -> None:
    target = OnnxRuntime(options=TargetOptions(kv_cache="fixed"))
    with pytest.raises(TargetError, match=r"GroupQueryAttention writes .* in place"):
        target.require(load_recipe("w4a16-rtn", ()))
