"""Every target does what the protocol says, with the names that it says."""

from __future__ import annotations

import inspect

import pytest

from castline.compiler.targets.catalogue import TARGETS
from castline.compiler.targets.target import Built, Lowered, Target


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize("method", ["require", "require_dtype", "lower", "build"])
def test_every_target_takes_the_arguments_of_the_protocol(target: Target, method: str) -> None:
    asked = inspect.signature(getattr(Target, method))
    given = inspect.signature(getattr(type(target), method))
    assert given.parameters == asked.parameters
    assert given.return_annotation == asked.return_annotation


def test_a_build_says_nothing_unless_told() -> None:
    built = Built(facts={})
    assert (built.notes, built.not_executed) == ((), ())


def test_a_lowering_shares_no_cache_unless_told() -> None:
    assert (Lowered().notes, Lowered().shares_cache) == ((), False)
