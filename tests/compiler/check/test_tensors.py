"""Tensor figures tell planted errors exactly, and are blind to padding.

The model here is the same function twice, in torch and in ONNX: a token's key is the token, its
value the position, and its logits are (the sum of all keys that are not padding) x [1, 2, 3].
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from transformers import DynamicCache

from castline.compiler.check.tensors import TensorFigure, TensorFigures, compare_tensors
from castline.errors import OutputError, TargetError

TOKENS = np.array([[30, 20, 3, 1, 4], [2, 2, 8, 5, 6]], dtype=np.int64)

GRAPH = """
<ir_version: 10, opset_import: ["" : 21]>
decoder (int64[B, S] input_ids, int64[B, T] attention_mask, int64[B, S] position_ids,
         TYPE[B, 1, P, 1] past_key, TYPE[B, 1, P, 1] past_value)
     => (TYPE[B, S, 3] logits, TYPE[B, 1, T, 1] present_key, TYPE[B, 1, T, 1] present_value)
<int64[4] column = {0, 1, -1, 1}, int64[1] minus_one = {-1}, int64 one = {1}, int64[1] axis_1 = {1},
 int64[1] far = {9999}, float[3] weights_f = {WEIGHTS}, float noise_f = {NOISE}, float one_s = {1}>
{
    one_f = CastLike (one_s, past_key)
    weights = CastLike (weights_f, past_key)
    noise = CastLike (noise_f, past_key)
    tokens = CastLike (input_ids, one_f)
    key = Reshape (tokens, column)
    position = CastLike (position_ids, one_f)
    value = Reshape (position, column)
    clean_key = Concat <axis: int = 2> (past_key, key)
    present_value = Concat <axis: int = 2> (past_value, value)
    mask = CastLike (attention_mask, one_f)
    masked = Sub (one_f, mask)
    dirt = Mul (masked, noise)
    dirt_column = Reshape (dirt, column)
    present_key = Add (clean_key, dirt_column)
    shape = Shape (attention_mask)
    keys = Reshape (clean_key, shape)
    seen = Mul (keys, mask)
    seen_f = Cast <to: int = 1> (seen)
    sums_f = CumSum (seen_f, one)
    sums = CastLike (sums_f, one_f)
    dirty_sums = Add (sums, dirt)
    new = Shape <start: int = 1, end: int = 2> (input_ids)
    start = Neg (new)
    new_sums = Slice (dirty_sums, start, far, axis_1)
    sums_column = Unsqueeze (new_sums, minus_one)
    logits = Mul (sums_column, weights)
}
"""
NAMES = {
    "past_key": "past_key_values.0.key",
    "past_value": "past_key_values.0.value",
    "present_key": "present.0.key",
    "present_value": "present.0.value",
}


class SummingModel:
    """The original: called as a Hugging Face model is."""

    dtype = torch.float32

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        *,
        use_cache: bool,
    ) -> SimpleNamespace:
        assert use_cache
        cache = DynamicCache() if past_key_values is None else past_key_values
        position_ids = torch.zeros_like(input_ids) if position_ids is None else position_ids
        keys, _ = cache.update(
            input_ids[:, None, :, None].float(), position_ids[:, None, :, None].float(), 0
        )
        mask = torch.ones(keys.shape[2]) if attention_mask is None else attention_mask
        sums = (keys[:, 0, :, 0] * mask).cumsum(1)[:, -input_ids.shape[1] :]
        logits = sums[..., None] * torch.tensor([1.0, 2.0, 3.0])
        return SimpleNamespace(logits=logits, past_key_values=cache)

    forward = __call__  # is asked for its arguments


ORIGINAL = SimpleNamespace(model=SummingModel())


def session(
    weights: str = "1, 2, 3", kind: str = "float", noise: float = 0, without: str | None = None
) -> onnxruntime.InferenceSession:
    text = GRAPH.replace("TYPE", kind).replace("WEIGHTS", weights).replace("NOISE", str(noise))
    model = onnx.parser.parse_model(text)
    for value in (*model.graph.input, *model.graph.output):
        value.name = NAMES.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [NAMES.get(name, name) for name in node.input]
        node.output[:] = [NAMES.get(name, name) for name in node.output]
    kept = [value for value in model.graph.output if value.name != without]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    return onnxruntime.InferenceSession(model.SerializeToString())


def test_the_same_function_has_no_error() -> None:
    figures = compare_tensors(ORIGINAL, session(), TOKENS)
    assert figures.outputs == (
        TensorFigure("logits", 0.0, 1.0),
        TensorFigure("present.0.key", 0.0, 1.0),
        TensorFigure("present.0.value", 0.0, 1.0),
    )


def test_an_error_of_one_logit_in_three_is_told_exactly() -> None:
    figures = compare_tensors(ORIGINAL, session("1, 2, 3.5"), TOKENS)
    logits = figures.of("logits")
    # Every row is s x [1, 2, 3] against s x [1, 2, 3.5]; the largest |difference| is at the largest
    # s, which is also where |reference| is the largest.
    assert logits.relative_error == pytest.approx(0.5 / 3)
    cosine = (1 + 4 + 3 * 3.5) / math.sqrt(14 * (1 + 4 + 3.5**2))
    assert logits.cosine == pytest.approx(cosine)
    assert figures.worst_relative_error == figures.worst_cosine == logits
    assert figures.of("present.0.key").relative_error == 0


@pytest.mark.parametrize("noise", [0, 1000])
def test_what_stands_at_padding_is_not_compared(noise: float) -> None:
    figures = compare_tensors(ORIGINAL, session(noise=noise), TOKENS, padding=2)
    assert figures.worst_relative_error.relative_error == 0


def test_padding_reaches_both_models() -> None:
    class UnmaskedModel(SummingModel):
        def __call__(self, **inputs):
            return super().__call__(**{**inputs, "attention_mask": None})

    unmasked = SimpleNamespace(model=UnmaskedModel())
    assert compare_tensors(unmasked, session(), TOKENS).of("logits").relative_error == 0
    padded = compare_tensors(unmasked, session(), TOKENS, padding=2)
    # The prefill's last sum is 3 + 1 without its padding of 30 and 20, and 54 with it.
    assert padded.of("logits").relative_error == pytest.approx((54 - 4) / 54)


def test_a_result_in_half_precision_is_compared_with_the_original_in_single() -> None:
    figures = compare_tensors(ORIGINAL, session("1, 2, 3", "float16"), TOKENS)
    assert figures.worst_relative_error.relative_error == 0  # small whole numbers are exact


def test_logits_that_are_not_finite_are_nan_and_the_worst() -> None:
    # 60000 x 8 and more overflow float16.
    figures = compare_tensors(ORIGINAL, session("1, 2, 60000", "float16"), TOKENS)
    assert math.isnan(figures.of("logits").relative_error)
    assert math.isnan(figures.of("logits").cosine)
    assert figures.worst_relative_error.name == figures.worst_cosine.name == "logits"


def test_an_original_of_zeros_makes_any_error_infinite() -> None:
    class SilentModel(SummingModel):
        def __call__(self, *arguments, **inputs):
            output = super().__call__(*arguments, **inputs)
            output.logits = torch.zeros_like(output.logits)
            return output

    figures = compare_tensors(SimpleNamespace(model=SilentModel()), session(), TOKENS)
    assert figures.of("logits") == TensorFigure("logits", math.inf, 0.0)


def test_worst_figures_name_their_output() -> None:
    figures = TensorFigures(
        (TensorFigure("a", 0.5, 0.99), TensorFigure("b", 0.1, 0.2), TensorFigure("c", 0.2, 0.9))
    )
    assert figures.worst_relative_error.name == "a"
    assert figures.worst_cosine.name == "b"


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(TargetError, match=r"present\.0\.value is not there, expected \(2, 1, 4, 1"):
        compare_tensors(ORIGINAL, session(without="present.0.value"), TOKENS)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    result = session("1, 2, 4", "float16")
    compare_tensors(ORIGINAL, result, TOKENS, padding=1)
    assert capfd.readouterr() == ("", "")


def test_a_result_that_cannot_be_run_is_refused_with_the_reason() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    other (int64[B, S] input_ids) => (int64[N] logits) <int64[1] seven = {7}>
    { logits = Reshape (input_ids, seven) }"""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    model = onnx.parser.parse_model(text).SerializeToString()
    other = onnxruntime.InferenceSession(model, options)
    with pytest.raises(TargetError, match=r"cannot be run for comparison: .*Reshape"):
        compare_tensors(ORIGINAL, other, TOKENS)


def test_a_result_of_another_depth_is_another_model() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]>
    deeper (int64[B, S] input_ids, PASTS) => (int64[B, S] logits) { logits = Identity (input_ids) }
    """
    pasts = ", ".join(f"float[B, 1, P, 1] k{i}, float[B, 1, P, 1] v{i}" for i in range(2))
    model = onnx.parser.parse_model(text.replace("PASTS", pasts))
    for value in model.graph.input[1:]:
        slot = {"k": "key", "v": "value"}[value.name[0]]
        value.name = f"past_key_values.{value.name[1:]}.{slot}"
    deeper = onnxruntime.InferenceSession(model.SerializeToString())
    with pytest.raises(OutputError, match="the caches of 2 layers, and the original of 1: they"):
        compare_tensors(ORIGINAL, deeper, TOKENS)
