"""A fold leaves what a model computes as it is, in a written graph as ONNX Runtime runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import Site
from castline.compiler.passes.fold import Fold, edit_parameter
from castline.compiler.targets.write import write_model
from castline.exporters.interface import Interface

# Length of the difference by length of the answer, float32 against float32: what it costs to round
# the folded weights. The largest single difference is up to 1.2e-5 of the largest logit (Cohere).
UNCHANGED = 1e-5
PROMPT, TEXTS, PADDING = 12, 2, 3


def random_scale(site: Site) -> np.ndarray:
    return np.exp2(np.random.default_rng(site.scales).uniform(-2, 2, site.scales))


def power_of_two(site: Site) -> np.ndarray:
    """Return a scale that rounds nothing."""
    return np.exp2(np.random.default_rng(site.scales).integers(-2, 3, site.scales))


@pytest.mark.parametrize("draw", [random_scale, power_of_two])
def test_every_architecture_computes_the_same(
    draw: Callable[[Site], np.ndarray],
    architecture: Any,
    session: Any,
    record_property: Any,
    tmp_path: Path,
) -> None:
    model = architecture.graph()
    sites = fold_sites(model).foldable
    for site in sites:
        Fold(site, draw(site))(model)
    (tmp_path / "folded").mkdir()
    folded = write_model(model, tmp_path / "folded")
    onnx.checker.check_model(folded, full_check=True)
    interface = architecture.skeleton.interface
    expected = run(session(architecture.written(tmp_path)), interface)
    found = run(session(folded), interface)
    worst = {
        name: float(np.linalg.norm(found[name] - value) / np.linalg.norm(value))
        for name, value in expected.items()
        if not name.endswith(".value")
    }
    record_property("architecture", architecture.name)
    record_property("worst relative error", max(worst.values()))
    answers = [error for name, error in worst.items() if name.endswith(interface.output)]
    assert max(answers) < UNCHANGED
    if draw is power_of_two and not any("(1 + w)" in site.kind for site in sites):
        assert max(worst.values()) == 0


def run(runtime: onnxruntime.InferenceSession, interface: Interface) -> dict[str, np.ndarray]:
    """Return the outputs of a prompt and, with a cache, of the same tokens after it."""
    random = np.random.default_rng(0)
    ids = random.integers(3, 131, (TEXTS, PROMPT))
    mask = np.ones_like(ids)
    mask[0, :PADDING] = 0
    past = {
        i.name: np.zeros((TEXTS, i.shape[1], 0, i.shape[3]), np.float32)
        for i in runtime.get_inputs()
        if i.name.startswith("past")
    }
    found = {}
    for step in range(2 if interface.cached else 1):
        tokens = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": np.clip(mask.cumsum(1) - 1, 0, None)[:, -PROMPT:],
            "token_type_ids": ids % 2,
        }
        feed = {name: tokens[name] for name in interface.tokens} | past
        names = [output.name for output in runtime.get_outputs()]
        outputs = dict(zip(names, runtime.run(None, feed), strict=True))
        kept = mask[:, -PROMPT:].astype(bool)
        found[f"{step} {names[0]}"] = outputs.pop(names[0])[kept]
        found |= {f"{step} {name}": array for name, array in outputs.items()}
        past = dict(zip(past, outputs.values(), strict=True))
        mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
    return found


@pytest.fixture
def llama(sample: Callable[[str], Any]) -> ir.Model:
    model: ir.Model = sample("llama").graph()
    return model


def test_a_cache_of_values_is_scaled_and_one_of_keys_is_not(
    llama: ir.Model, sample: Callable[[str], Any], session: Any, tmp_path: Path
) -> None:
    site = next(s for s in fold_sites(llama).foldable if s.kind == "rows through attention")
    scale = random_scale(site)
    Fold(site, scale)(llama)
    (tmp_path / "folded").mkdir()
    interface = sample("llama").skeleton.interface
    expected = run(session(sample("llama").written(tmp_path)), interface)
    found = run(session(write_model(llama, tmp_path / "folded")), interface)
    np.testing.assert_allclose(
        found["1 present.0.value"] * scale.reshape(2, 1, -1).astype(np.float32),
        expected["1 present.0.value"],
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_array_equal(found["1 present.0.key"], expected["1 present.0.key"])


def test_nothing_is_read_before_the_model_is_written(sample: Callable[[str], Any]) -> None:
    llama = sample("llama")
    checkpoint = llama.checkpoint()
    model = llama.graph(checkpoint=checkpoint)
    for site in fold_sites(model).foldable:
        Fold(site, np.ones(site.scales))(model)
    assert checkpoint.reader.reads == {}


def test_folding_a_scale_and_its_inverse_is_folding_nothing(llama: ir.Model) -> None:
    site = fold_sites(llama).foldable[0]
    before = {e.parameter: tensor(llama, e.parameter).numpy() for e in site.edits}
    scale = np.exp2(np.random.default_rng(0).integers(-3, 4, site.scales))  # exact in binary
    Fold(site, scale)(llama)
    assert not np.array_equal(tensor(llama, str(site.producer)).numpy(), before[str(site.producer)])
    Fold(site, 1 / scale)(llama)
    for name, array in before.items():
        np.testing.assert_array_equal(tensor(llama, name).numpy(), array)


def test_a_folded_model_has_the_sites_it_had(llama: ir.Model) -> None:
    before = fold_sites(llama)
    for site in before.foldable:
        Fold(site, random_scale(site))(llama)
    after = fold_sites(llama)
    assert [site.value for site in after.foldable] == [site.value for site in before.foldable]


@pytest.mark.parametrize("dtype", [ir.DataType.FLOAT16, ir.DataType.BFLOAT16])
def test_a_weight_is_scaled_before_it_is_rounded(
    dtype: ir.DataType, sample: Callable[[str], Any]
) -> None:
    gemma = sample("gemma")
    model = gemma.graph(dtype)
    site = fold_sites(model).foldable[0]
    assert site.kind == "norm gain (1 + w)"
    scale = random_scale(site)
    Fold(site, scale)(model)
    stored = gemma.arrays()[str(site.producer)]
    exact = ((1 + stored) / scale.astype(np.float32) - 1).astype(dtype.numpy())
    found = tensor(model, str(site.producer)).numpy()
    np.testing.assert_allclose(
        found.astype(np.float32), exact.astype(np.float32), rtol=1e-2 if exact.itemsize else 0
    )


def test_a_tensor_that_is_no_promise_is_scaled_too() -> None:
    text = """
        <ir_version: 10, opset_import: ["": 23]>
        g (float[B, 2] x) => (float[B, 2] y) <float[2] w = {2, 3}, float[2, 2] m = {1, 2, 3, 4}>
        { n = RMSNormalization <axis = -1> (x, w)  y = MatMul (n, m) }
    """
    model = ir.from_onnx_text(text)
    model.graph.inputs[0].shape = ir.Shape(["batch_size", 2])
    (site,) = fold_sites(model).sites
    Fold(site, np.array([2.0, 0.5]))(model)
    np.testing.assert_array_equal(tensor(model, "w").numpy(), [1, 6])
    np.testing.assert_array_equal(tensor(model, "m").numpy(), [[2, 4], [1.5, 2]])
    assert tensor(model, "m").dtype == ir.DataType.FLOAT


def test_a_declined_site_takes_no_scale(sample: Callable[[str], Any]) -> None:
    model = sample("gemma").graph()
    site = next(site for site in fold_sites(model).sites if not site.foldable)
    with pytest.raises(AssertionError, match=r"takes no scale: .* is also the embedding table"):
        Fold(site, np.ones(site.scales))


@pytest.mark.parametrize(
    ("bad", "message"), [(0.0, "not positive"), (np.inf, "infinite"), (np.nan, "infinite or no")]
)
def test_a_scale_is_positive_and_finite(llama: ir.Model, bad: float, message: str) -> None:
    site = fold_sites(llama).foldable[0]
    with pytest.raises(AssertionError, match=message):
        Fold(site, np.full(site.scales, bad))
    with pytest.raises(AssertionError, match="scales, got"):
        Fold(site, np.ones(site.scales + 1))


def test_a_forced_fold_is_not_the_same_model(
    sample: Callable[[str], Any], session: Any, tmp_path: Path
) -> None:
    gemma = sample("gemma")
    model = gemma.graph()
    site = next(site for site in fold_sites(model).sites if not site.foldable)
    for edit in site.edits:
        edit_parameter(model, edit, random_scale(site))
    (tmp_path / "forced").mkdir()
    expected = run(session(gemma.written(tmp_path)), gemma.skeleton.interface)["0 logits"]
    found = run(session(write_model(model, tmp_path / "forced")), gemma.skeleton.interface)
    assert np.abs(found["0 logits"] - expected).max() > 1e-2 * np.abs(expected).max()


def tensor(model: ir.Model, name: str) -> ir.TensorProtocol:
    found = model.graph.initializers[name].const_value
    assert found is not None
    return found
