"""Targets are found by name, and an unknown name is answered with all of them."""

from __future__ import annotations

import pytest

from castline.compiler.targets.catalogue import TARGETS, target_named
from castline.compiler.targets.tensorrt_rtx.target import TensorRTRTX
from castline.errors import TargetError


def test_every_target_is_found_by_its_name() -> None:
    assert [target_named(target.name) for target in TARGETS] == list(TARGETS)
    assert [target.name for target in TARGETS] == ["onnx", "onnxruntime", "tensorrt-rtx"]


def test_plugins_are_of_the_target_that_has_them() -> None:
    assert target_named("tensorrt-rtx", "never") == TensorRTRTX(plugins="never")
    with pytest.raises(TargetError, match="--plugins never is for the tensorrt-rtx target, not on"):
        target_named("onnx", "never")


def test_an_unknown_name_is_answered_with_all_names() -> None:
    with pytest.raises(TargetError, match=r"no target 'cuda'.*: onnx, onnxruntime, tensorrt-rtx\."):
        target_named("cuda")
