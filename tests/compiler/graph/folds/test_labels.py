from __future__ import annotations

import numpy as np
import onnx_ir as ir

from castline.compiler.graph.folds.labels import Labels, end


def test_an_entry_that_was_refused_keeps_its_first_reason() -> None:
    labels = Labels(4)
    labels.refuse(np.array([[0, 2]]), "first")
    labels.refuse(np.array([2, 3]), "second")
    assert list(labels.alive(np.arange(5))) == [False, True, False, False, True]
    assert labels.reason(np.array([1, 4])) is None
    assert labels.reason(np.array([3])) == "second"
    assert labels.reason(np.array([3, 2, 1])) == "first"


def test_refusing_what_has_no_scale_is_not_a_reason() -> None:
    labels = Labels(2)
    labels.refuse(np.zeros(3, int), "nothing is scaled here")
    assert labels.reasons == []


def test_each_element_of_a_tensor_meets_its_label() -> None:
    labels = Labels(6)
    scaled = np.arange(1, 7).reshape(2, 1, 3).repeat(4, axis=1)  # [experts, tokens, channels]
    np.testing.assert_array_equal(
        labels.meet((2, 1, 3), scaled, "differs"), [[[1, 2, 3]], [[4, 5, 6]]]
    )
    assert labels.reasons == []


def test_an_element_that_meets_two_labels_is_refused_with_both() -> None:
    labels = Labels(6)
    labels.meet((3,), np.array([[1, 2, 3], [1, 4, 3]]), "differs")
    assert labels.reasons == ["differs"]
    assert list(labels.alive(np.arange(1, 7))) == [True, False, True, False, True, True]


def test_labels_broadcast_to_a_larger_tensor() -> None:
    met = Labels(2).meet((3, 1, 2), np.array([[[1, 2]]]), "differs")
    np.testing.assert_array_equal(met, [[[1, 2]]] * 3)


def test_the_end_of_a_way_refuses_what_the_node_reads() -> None:
    value, other = ir.Value(name="value"), ir.Value(name="other")
    node = ir.Node("", "Cos", [value, other], name="/rotary/Cos")
    labels = Labels(2)
    labels.of[value] = np.array([1, 0])
    assert end(node, labels) == []
    assert labels.reason(np.array([1])) == "Cos /rotary/Cos reads it"
    assert labels.alive(np.array([2]))


def test_ways_are_those_of_the_entries_that_were_asked_for() -> None:
    labels = Labels(3)
    labels.note(np.array([1, 2]), "ReLU")
    labels.note(np.array([3]), "attention")
    assert labels.ways(np.array([False, False, True, False])) == ("ReLU",)
