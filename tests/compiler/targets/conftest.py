"""Hand out decoders with a mixture of experts, and ways to quantize what linears read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.graph.products import products
from castline.compiler.passes.quantize_activations import QuantizeActivations
from castline.compiler.passes.quantize_weights import QuantizeWeights
from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme


@pytest.fixture
def mixture_decoder(sample: Callable[[str], Any]) -> Callable[[str], ir.Model]:
    """Return the float graph of a sample, anew."""
    return lambda name: sample(name).graph()


@pytest.fixture(scope="session")
def mixture_scenarios(
    scenarios: dict[str, Any], architectures: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """Return `scenarios` in the tokens of the mixtures, which are fewer."""
    vocabulary = architectures["mixtral"]["vocab_size"]
    return {
        name: [(ids % vocabulary, mask) for ids, mask in steps] for name, steps in scenarios.items()
    }


@dataclass(frozen=True)
class Activations:
    """One way to quantize what linears read, with scales from nowhere where they are static."""

    scheme: ActivationScheme
    parameters: QuantParameters | None = None

    def quantized(self, model: ir.Model, weights: WeightScheme) -> list[str]:
        """Quantize the layers of a decoder in place; return the weights of its linears."""
        QuantizeWeights(weights)(model)
        names = [product.name for product in products(model) if ".layers." in product.name]
        done = QuantizeActivations(dict.fromkeys(names, (self.scheme, self.parameters)))(model)
        assert done.left == {}
        return done.names


STATIC = Activations(ActivationScheme(8, "per-tensor", dynamic=False), QuantParameters(0.05, 0))
PER_TOKEN = Activations(ActivationScheme(8, "per-token", dynamic=True))
PER_TENSOR = Activations(ActivationScheme(8, "per-tensor", dynamic=True))


@pytest.fixture(scope="session")
def activations() -> dict[str, Activations]:
    """Return ways to quantize what linears read, by name."""
    return {"static": STATIC, "per token": PER_TOKEN, "per tensor": PER_TENSOR}


@pytest.fixture
def optimized_operators(tmp_path: Path) -> Callable[[Path], Counter[str]]:
    """Return how many nodes of each operator ONNX Runtime runs for a model, the head's product out.

    What it optimizes for itself is optimized, too.
    """

    def run(model: Path) -> Counter[str]:
        file = tmp_path / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(file)
        options.log_severity_level = 4  # it warns that the file is for this machine
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", "optimized.data"
        )
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load(file, load_external_data=False).graph.node
        return Counter(node.op_type for node in nodes if "logits" not in node.output)

    return run
