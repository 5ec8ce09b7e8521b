"""Targets are found by name, and an unknown name is answered with all of them."""

from __future__ import annotations

import pytest

from castline.compiler.targets.catalogue import TARGETS, refuse_options, target_named
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt.edition import TENSORRT_RTX
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.target import TensorRT
from castline.errors import TargetError


def test_every_target_is_found_by_its_name() -> None:
    assert [target_named(target.name) for target in TARGETS] == list(TARGETS)
    assert [target.name for target in TARGETS] == [
        "onnx",
        "onnxruntime",
        "tensorrt-rtx",
        "tensorrt",
    ]


def test_plugins_are_of_the_target_that_has_them() -> None:
    never = TargetOptions(plugins="never")
    assert target_named("tensorrt-rtx", never) == TensorRT(TENSORRT_RTX, never)
    with pytest.raises(TargetError, match="--plugins never is for the tensorrt and tensorrt-rtx"):
        target_named("onnx", never)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "onnxruntime",
            TargetOptions(engine=EngineOptions(strip_weights=True)),
            "the target onnxruntime has none",
        ),
        ("onnx", TargetOptions(provider="cuda"), "--provider cuda is for the onnxruntime target"),
    ],
)
def test_options_of_other_targets_are_refused(
    name: str, options: TargetOptions, words: str
) -> None:
    with pytest.raises(TargetError, match=words):
        target_named(name, options)


def test_a_checkpoint_has_no_form_of_a_graph() -> None:
    with pytest.raises(TargetError, match="the target huggingface writes a checkpoint"):
        refuse_options("huggingface", TargetOptions(logits="last"), engine=False)


def test_an_unknown_name_is_answered_with_all_names() -> None:
    with pytest.raises(TargetError, match=r"no target 'cuda'.*: onnx, onnxruntime, tensor"):
        target_named("cuda")
