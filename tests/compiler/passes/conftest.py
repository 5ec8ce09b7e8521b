"""Build experts as the exporter writes them, every one on every token, and run what they become."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as common_passes
import onnxruntime
import pytest

from castline.compiler.graph.products import products
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.targets.write import write_model

NO_OPTIMIZATION = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
SILU = "sigmoid = Sigmoid (gate)\n silu = Mul (gate, sigmoid)\n inner = Mul (silu, up)"


@dataclass(frozen=True)
class Mixture:
    """Sizes and weights of experts gated by SiLU, and their graph."""

    experts: int = 4
    hidden: int = 64
    inner: int = 32
    chosen: int = 2
    dtype: type = np.float32
    activation: str = SILU
    biases: bool = False
    signed: bool = False
    """Whether what the answers weigh is the scores themselves, and not their sigmoid."""
    gate_up: np.ndarray = field(init=False)
    down: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        gate_up = random.standard_normal((self.experts, self.hidden, 2 * self.inner)) / 8
        down = random.standard_normal((self.experts, self.inner, self.hidden)) / 8
        object.__setattr__(self, "gate_up", gate_up.astype(self.dtype))
        object.__setattr__(self, "down", down.astype(self.dtype))

    def model(self) -> ir.Model:
        """Return the graph y = mixture(x, index, scores); x is [T, hidden], the others [T, k]."""
        real = "float" if self.dtype is np.float32 else "float16"
        bias = "biased = Unsqueeze (bias, second)\n gates = Add (product, biased)"
        model = ir.from_onnx_text(f"""
            <ir_version: 10, opset_import: ["" : 23]>
            mixture (
                {real}[T, {self.hidden}] x, int64[T, {self.chosen}] index,
                {real}[T, {self.chosen}] scores,
                {real}[{self.experts}, {self.hidden}, {2 * self.inner}] gate_up,
                {real}[{self.experts}, {self.inner}, {self.hidden}] down,
                {real}[{self.experts}, {2 * self.inner}] bias
            ) => ({real}[T, {self.hidden}] y)
            <{real} zero = {{0}}, int64[1] first = {{0}}, int64[1] second = {{1}},
             int64[1] last = {{-1}}, int64[1] experts = {{{self.experts}}}>
            {{
                weights = {"Identity" if self.signed else "Sigmoid"} (scores)
                length = Shape <start = 0, end = 1> (index)
                shape = Concat <axis = 0> (length, experts)
                nothing = Expand (zero, shape)
                routing = ScatterElements <axis = 1> (nothing, index, weights)
                turned = Transpose <perm = [1, 0]> (routing)
                by_expert = Unsqueeze (turned, last)
                rows = Unsqueeze (x, first)
                product = MatMul (rows, gate_up)
                {bias if self.biases else "gates = Identity (product)"}
                gate, up = Split <axis = -1, num_outputs = 2> (gates)
                {self.activation}
                answers = MatMul (inner, down)
                weighted = Mul (answers, by_expert)
                y = ReduceSum <keepdims = 0> (weighted, first)
            }}
        """)
        arrays = {"gate_up": self.gate_up, "down": self.down, "bias": self.bias()}
        for value in [v for v in model.graph.inputs if v.name in arrays]:
            model.graph.inputs.remove(value)
            if value.consumers():
                value.const_value = ir.Tensor(arrays[str(value.name)], name=value.name)
                model.graph.initializers.add(value)
        for node in model.graph:
            node.name = f"/experts/{node.outputs[0].name}"
        common_passes.IdentityEliminationPass()(model)
        common_passes.ShapeInferencePass()(model)
        return model

    def bias(self) -> np.ndarray:
        """Return what is added to each expert's gates and ups, [E, 2 * inner]."""
        size = self.experts * 2 * self.inner
        ramp = np.linspace(-1, 1, size, dtype=self.dtype)
        return ramp.reshape(self.experts, 2 * self.inner)

    def computed(
        self,
        x: np.ndarray,
        index: np.ndarray,
        scores: np.ndarray,
        gate_up: np.ndarray | None = None,
        down: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the mixture's answer, token by token; other weights can be given."""
        gate_up = self.gate_up if gate_up is None else gate_up
        down = self.down if down is None else down
        weights = scores if self.signed else 1 / (1 + np.exp(-scores.astype(np.float64)))
        result = np.zeros(x.shape)
        for token, experts in enumerate(index):
            for expert, weight in zip(experts, weights[token], strict=True):
                gates = x[token].astype(np.float64) @ gate_up[expert]
                gates = gates + (self.bias()[expert] if self.biases else 0)
                gate, up = gates[: self.inner], gates[self.inner :]
                result[token] += weight * (gate / (1 + np.exp(-gate)) * up @ down[expert])
        return result


@pytest.fixture
def mixture() -> type[Mixture]:
    """Return experts gated by SiLU, of sizes to choose."""
    return Mixture


def routings(mixture: Mixture) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return tokens, chosen experts and scores by what is special about them."""
    random = np.random.default_rng(1)
    experts, chosen = mixture.experts, mixture.chosen

    def tokens(
        count: int, choose: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        index = np.argsort(random.random((count, experts)), axis=1)[:, :chosen]
        index = index if choose is None else np.tile(choose, (count, 1))
        x = random.standard_normal((count, mixture.hidden)).astype(mixture.dtype)
        scores = random.standard_normal((count, chosen)).astype(mixture.dtype)
        return x, index.astype(np.int64), scores

    x, index, scores = tokens(6)
    scores[::2, 0] = -200  # too little for a sigmoid in float32 to be above zero
    return {
        "one token": tokens(1),
        "forty tokens": tokens(40),
        "all choose the same": tokens(7, np.arange(chosen)),
        "some weigh nothing": (x, index, scores),
    }


@pytest.fixture
def routed() -> Callable[[Mixture], dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """Return tokens, chosen experts and scores by what is special about them."""
    return routings


@pytest.fixture
def run_mixture(tmp_path: Path) -> Callable[..., list[np.ndarray]]:
    """Write a mixture's graph and run it on each of the given inputs, as it is written."""

    def run(model: ir.Model, *inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.graph_optimization_level = NO_OPTIMIZATION
        session = onnxruntime.InferenceSession(
            write_model(model, folder), options, providers=["CPUExecutionProvider"]
        )
        feeds = (dict(zip(("x", "index", "scores"), each, strict=True)) for each in inputs)
        return [np.asarray(session.run(["y"], feed)[0]) for feed in feeds]

    return run


@pytest.fixture(scope="session")
def multiply_codes() -> Callable[..., None]:
    """Return what quantizes the layers of a decoder in place, what they read per token."""

    def quantize(model: ir.Model, weights: WeightScheme, *, symmetric: bool = True) -> None:
        QuantizeWeights(weights)(model)
        per_token = ActivationScheme(8, "per-token", dynamic=True, symmetric=symmetric)
        names = [product.name for product in products(model) if ".layers." in product.name]
        QuantizeActivations(dict.fromkeys(names, (per_token, None)))(model)

    return quantize
