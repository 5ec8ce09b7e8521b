"""What a node multiplies channels by is one number a channel, or it is not taken from it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from castline.compiler.passes.channel_factors import channel_factors, leave_ones, map_of
from castline.compiler.passes.initializers import constant
from castline.plugins.op import DOMAIN
from castline.plugins.reassemble_channels.op import REASSEMBLE_CHANNELS

# Channel 1 stands at places 1 and 2, a half each; 2 and 3 at place 3.
MAP = {
    "gather": np.array([0, 1, 1, 3]),
    "scale": np.array([1, 0.5, 0.5, 0.25], np.float32),
    "place": np.array([3]),
    "channel": np.array([2]),
    "channel_scale": np.array([0.75], np.float32),
}


def node_of(**parts: np.ndarray) -> tuple[ir.Graph, ir.Node]:
    model = ir.from_onnx_text(f"""
        <ir_version: 10, opset_import: ["" : 23, "{DOMAIN}" : 1]>
        placed (float[2, 4] x) => (float[2, 4] y) {{ y = Identity (x) }}
    """)
    REASSEMBLE_CHANNELS.define_in(model)
    given = [constant(model.graph, name, array) for name, array in (MAP | parts).items()]
    node = ir.Node(DOMAIN, REASSEMBLE_CHANNELS.name, [model.graph.inputs[0], *given])
    model.graph.append(node)
    return model.graph, node


def test_each_channel_has_its_factor() -> None:
    _graph, node = node_of()
    factors = channel_factors(node)
    assert factors is not None
    assert factors.tolist() == [1, 0.5, 0.75, 0.25]


@pytest.mark.parametrize(
    "parts",
    [
        {"scale": np.array([1, 0.5, 0.25, 0.25], np.float32)},
        {"channel": np.array([1])},  # 0.75 here, a half elsewhere
    ],
)
def test_a_channel_of_two_factors_has_none(parts: dict[str, np.ndarray]) -> None:
    _graph, node = node_of(**parts)
    assert channel_factors(node) is None


def test_one_factor_for_all_and_a_channel_that_stands_nowhere() -> None:
    _graph, node = node_of(
        scale=np.array(0.5, np.float32),
        channel=np.array([1]),
        channel_scale=np.array([0.5], np.float32),
    )
    factors = channel_factors(node)
    assert factors is not None
    assert factors.tolist() == [0.5, 0.5, 1, 0.5]


def test_what_was_taken_is_ones_and_places_stay() -> None:
    graph, node = node_of()
    leave_ones(graph, node)
    gather, scale, place, channel, channel_scale = map_of(node)
    assert gather.tolist() == MAP["gather"].tolist()
    assert (place.tolist(), channel.tolist()) == ([3], [2])
    assert (float(scale), channel_scale.tolist()) == (1, [1])
    assert not {"scale", "channel_scale"} & graph.initializers.keys()
