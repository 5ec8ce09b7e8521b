"""Build what a search works on: recipes, sites of tiny models, and linears that read something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.observation import Observed
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem


@pytest.fixture(scope="session")
def sites(sample: Callable[[str], Any]) -> Callable[[str], tuple[Site, ...]]:
    """Return the sites of a sample's graph."""
    found: dict[str, tuple[Site, ...]] = {}

    def of(name: str) -> tuple[Site, ...]:
        if name not in found:
            found[name] = fold_sites(sample(name).graph()).sites
        return found[name]

    return of


@pytest.fixture(scope="session")
def w8a8() -> Callable[..., Recipe]:
    """Return SmoothQuant's O3 at every site but ReLU, with other fields in place of its own."""

    def made(
        bits: int = 8,
        granularity: str = "per-tensor",
        scales: str = "static",
        alpha: float | str = "search",
        **fields: object,
    ) -> Recipe:
        recipe: dict[str, object] = {
            "name": "tiny",
            "algorithm": "smoothquant",
            "weights": {"bits": bits, "group_size": "per-tensor", "symmetric": True},
            "activations": {"bits": bits, "granularity": granularity, "scales": scales},
            "smoothing": {"alpha": alpha, "sites": ["norm", "value", "up"]},
        }
        return Recipe.model_validate(recipe | fields)

    return made


@pytest.fixture(scope="session")
def problem() -> Callable[..., SiteProblem]:
    """Return the problem of linears w0, w1, ... that read one value x [rows, K]."""

    def of(
        x: torch.Tensor,
        *weights: torch.Tensor,
        unquantized: tuple[str, ...] = (),
        unread: tuple[str, ...] = (),
    ) -> SiteProblem:
        k = x.shape[1]
        low, high = torch.aminmax(x, dim=0)
        linears = tuple(
            ReadingLinear(
                name,
                None,
                weight,
                torch.arange(k),
                None if name in unread else Observed(low, high, [x]),
                quantized=name not in unquantized,
            )
            for name, weight in ((f"w{number}", each) for number, each in enumerate(weights))
        )
        consumers = tuple(Consumer(one.name, one.name, np.arange(k)) for one in linears)
        return SiteProblem(Site("x", "gain", "norm gain", consumers, (), k, None), linears)

    return of
