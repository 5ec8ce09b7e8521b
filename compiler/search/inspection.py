"""Run one module of a block again with other weights, and see how far its output moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils.hooks import RemovableHandle
from transformers.cache_utils import Cache

from castline.compiler.graph.folds.site import Site
from castline.compiler.search.linear_calls import Answer, LinearCall, LinearCalls
from castline.compiler.search.squares import sum_of_squares

Tensor: TypeAlias = torch.Tensor
Weights: TypeAlias = Mapping[tuple[str, int | None], Tensor]
"""Matrices [N, K] by the name of the parameter and the expert."""


@dataclass(frozen=True, eq=False)
class InspectedModule:
    """A module, how a block called it, and what it answered."""

    path: str
    """In the block, "" for the block itself."""
    run: Callable[[], Tensor]
    """Calls it as the block did, and returns what the block got first."""
    parameters: Mapping[str, Tensor]
    """Those of the block, by name."""
    answered: Tensor
    """What the block got first."""

    def error(self, weights: Weights, reference: Tensor) -> float:
        """Return the squared error over the square of `reference` with `weights` in place.

        The parameters are not touched: each product is computed with the matrix given for it.
        """
        return self.error_with(_Substituted(weights), reference)

    def error_with(self, answer: Answer, reference: Tensor) -> float:
        """Return the same with `answer` asked for each product with one of the parameters."""
        with LinearCalls(self.parameters, answer):
            apart = self.run().float() - reference
        whole = sum_of_squares(reference)
        return sum_of_squares(apart) / whole if whole > 0 else 0.0


@dataclass(frozen=True)
class _Substituted:
    """Answers with the matrix that is given for a product, or else with the model's own."""

    weights: Weights

    def __call__(self, call: LinearCall) -> Tensor:
        return call.answer(weight=self.weights.get((call.name, call.expert)))


@contextmanager
def inspecting(
    block: torch.nn.Module, paths: set[str], parameters: Mapping[str, Tensor]
) -> Iterator[dict[str, InspectedModule]]:
    """Note how the next run of `block` calls the modules at `paths`: yields them once it has."""
    found: dict[str, InspectedModule] = {}

    def noting(path: str, module: torch.nn.Module) -> Iterator[RemovableHandle]:
        called: list[tuple[Any, Any]] = []

        def before(_module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            called[:] = [(_uncached(args), {key: _uncached(each) for key, each in kwargs.items()})]

        def after(_module: torch.nn.Module, _args: Any, answer: Any) -> None:
            # The last call counts: before, a block may be called to see with which arguments.
            again = _again(module, *called.pop())
            found[path] = InspectedModule(path, again, parameters, _first(answer).clone())

        yield module.register_forward_pre_hook(before, with_kwargs=True)
        yield module.register_forward_hook(after)

    modules = ((path, block.get_submodule(path) if path else block) for path in paths)
    handles = [handle for path, module in modules for handle in noting(path, module)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def inspected_path(site: Site, prefix: str) -> str | None:
    """Return which module's output a site's scale is judged by: None for that of its linears.

    As AWQ's authors have it: what a norm feeds is judged by the output of the smallest module that
    holds all of it (attention, feed-forward, or the block where both read one norm), and any other
    linear by its own.
    """
    if not site.kind.startswith("norm gain") and site.kind:
        return None
    names = [consumer.linear.removeprefix(prefix) for consumer in site.consumers]
    modules = [name.rpartition(".")[0].split(".") for name in names]
    if len(modules) == 1:
        return ".".join(modules[0][:-1]) or None
    common: list[str] = []
    for steps in zip(*modules, strict=False):
        if len(set(steps)) > 1:
            break
        common.append(steps[0])
    return ".".join(common)


def _again(module: torch.nn.Module, args: Any, kwargs: Any) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            return _first(module(*args, **kwargs))

    return run


def _first(answer: Any) -> Tensor:
    first = answer[0] if isinstance(answer, tuple) else answer
    assert torch.is_tensor(first), "modules answer with hidden states first"
    return first


def _uncached(value: Any) -> Any:
    """Return the argument, copied since blocks write into their own values; nothing for a cache."""
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, tuple):
        return tuple(_uncached(each) for each in value)
    return None if isinstance(value, Cache) else value
