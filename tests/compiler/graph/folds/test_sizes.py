from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from castline.compiler.graph.folds.sizes import Sizes
from castline.compiler.targets.write import write_model
from castline.exporters.names import PAST_PREFIX

BATCH, SEQUENCE, PAST = 2, 3, 2


def test_a_shape_that_is_computed_from_an_input_is_known(build: Any) -> None:
    nodes = """
        s = Shape <start = 0, end = 2> (x)  both = Concat <axis = 0> (s, four, two)
        h = Reshape (x, both)  t = Transpose <perm = [0, 2, 1, 3]> (h)  y = Neg (t)
    """
    model = build(nodes, {}, {"four": np.array([4]), "two": np.array([2])})
    sizes = Sizes(model.graph)
    y = model.graph.outputs[0]
    assert sizes.shape(y) == (BATCH, 4, SEQUENCE, 2)
    assert sizes.known(y) is None
    both = next(n.outputs[0] for n in model.graph if n.op_type == "Concat")
    np.testing.assert_array_equal(sizes.known(both), [BATCH, SEQUENCE, 4, 2])


@pytest.mark.parametrize("domain", ["", "com.example"])
def test_a_shape_that_depends_on_the_text_or_on_unknown_code_is_not_known(
    domain: str, build: Any
) -> None:
    model = build("v = NonZero (x)  y = Neg (v)", {})
    unknown, reader = model.graph
    unknown.domain = domain
    unknown.outputs[0].shape = reader.outputs[0].shape = None
    sizes = Sizes(model.graph)
    assert sizes.shape(unknown.outputs[0]) is None
    assert sizes.shape(reader.outputs[0]) is None


def test_what_a_text_says_is_not_known(build: Any) -> None:
    model = build("i = Cast <to = 7> (x)  y = Add (i, i)", {})
    assert all(Sizes(model.graph).known(node.outputs[0]) is None for node in model.graph)


@pytest.mark.parametrize("name", ["llama", "mixtral", "bloom", "glm", "gpt2", "bert"])
def test_shapes_are_those_that_the_runtime_finds(name: str, sample: Any, tmp_path: Any) -> None:
    model = sample(name).graph()
    sizes = Sizes(model.graph)
    floats = [
        value
        for node in model.graph
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT and not value.is_graph_output()
    ]
    assert all(sizes.shape(value) is not None for value in floats)
    model.graph.outputs.extend(floats)
    runtime = onnxruntime.InferenceSession(
        write_model(model, tmp_path), providers=["CPUExecutionProvider"]
    )
    found = runtime.run([str(value.name) for value in floats], feeds(runtime))
    for value, array in zip(floats, found, strict=True):
        assert sizes.shape(value) == array.shape, value.name


def feeds(runtime: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    inputs = {}
    for needed in runtime.get_inputs():
        if needed.name.startswith(PAST_PREFIX):
            shape = (BATCH, needed.shape[1], PAST, needed.shape[3])
            inputs[needed.name] = np.zeros(shape, np.float32)
        else:
            total = SEQUENCE + (PAST if runtime.get_inputs()[-1].name.startswith("past") else 0)
            length = total if needed.name == "attention_mask" else SEQUENCE
            inputs[needed.name] = np.ones((BATCH, length), np.int64)
    return inputs
