from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from castline.compiler.graph.folds.labels import Labels
from castline.compiler.graph.folds.rules import follow
from castline.compiler.graph.folds.sizes import Sizes


@pytest.mark.parametrize("operator", ["Cos", "Softmax", "CumSum", "Where", "Floor"])
def test_an_operator_without_a_rule_ends_every_way(operator: str, build: Any) -> None:
    model = build("y = Neg (x)", {})
    (node,) = model.graph
    sizes = Sizes(model.graph)
    node.op_type = operator
    labels = Labels(8)
    labels.of[node.inputs[0]] = np.broadcast_to(np.arange(1, 9), (2, 3, 8))
    assert follow(node, labels, sizes) == []
    assert not labels.alive(np.arange(9)).any()


def test_an_operator_of_another_domain_is_another_operator(build: Any) -> None:
    model = build("y = Relu (x)", {})
    (node,) = model.graph
    sizes = Sizes(model.graph)
    node.domain = "com.example"
    labels = Labels(8)
    labels.of[node.inputs[0]] = np.broadcast_to(np.arange(1, 9), (2, 3, 8))
    assert follow(node, labels, sizes) == []
    assert labels.reasons == ["Relu reads it"]
