"""Hand out the tiny decoders with a mixture of experts, and scenarios in their vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest


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
