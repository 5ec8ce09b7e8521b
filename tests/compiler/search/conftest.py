"""Build what a search works on: recipes, sites of tiny models, and linears that read something."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.block_plan import BlockSearch, SiteDecision
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.inspection import inspected_path, inspecting
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.observation import Observations, Observed
from castline.compiler.search.second_moments import SecondMoments, first_readers
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem

TOKENS = np.random.default_rng(0).integers(3, 100, (4, 12))


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
def w3a16() -> Callable[..., Recipe]:
    """Return AWQ at every site with 3 bits, whose errors are large; other fields in place."""

    def made(group: int | str = 32, *, symmetric: bool = False, **fields: object) -> Recipe:
        recipe: dict[str, object] = {
            "name": "tiny",
            "algorithm": "awq",
            "weights": {"bits": 3, "group_size": group, "symmetric": symmetric},
            "scaling": {"steps": 5},
            "clipping": {},
            "rounding": "compensated",
        }
        return Recipe.model_validate(recipe | fields)

    return made


class Trial:
    """The first block of a sample, run once, and the search for it."""

    def __init__(
        self,
        model: BlockModel,
        sites: tuple[Site, ...],
        recipe: Recipe,
        kept: dict[str, str],
        tokens: np.ndarray,
    ) -> None:
        self.model = model
        self.parameters = model.parameters(0)
        prefix = model.prefix(0)
        self.sites = tuple(
            site for site in sites if any(one.linear.startswith(prefix) for one in site.consumers)
        )
        self.hidden = model.entering(tokens)
        self.observations = Observations(1, 0)
        self.moments = SecondMoments(first_readers(self.sites), self.observations)
        paths = {path for site in self.sites if (path := inspected_path(site, prefix)) is not None}
        with (
            inspecting(model.blocks[0], paths, self.parameters) as modules,
            LinearCalls(self.parameters, self.moments),
        ):
            self.before = self.run()
        self.weights = {name: value.clone() for name, value in self.parameters.items()}
        self.search = BlockSearch(
            recipe, self.parameters, kept, prefix=prefix, moments=self.moments, modules=modules
        )

    def run(self) -> torch.Tensor:
        return self.model.run(0, self.hidden)

    def fold(self) -> tuple[SiteDecision, ...]:
        return self.search.fold(self.sites, self.observations)

    @property
    def changed(self) -> set[str]:
        return {
            name for name, value in self.parameters.items() if not value.equal(self.weights[name])
        }


@pytest.fixture
def trial(
    sample: Callable[[str], Any], sites: Callable[[str], tuple[Site, ...]]
) -> Callable[..., Any]:
    """Return the trial of a sample's first block, within which its weights are in memory."""

    @contextmanager
    def of(
        name: str,
        recipe: Recipe,
        kept: dict[str, str] | None = None,
        tokens: np.ndarray = TOKENS,
    ) -> Iterator[Trial]:
        model = BlockModel(sample(name).checkpoint())
        with model.loaded(0):
            yield Trial(model, sites(name), recipe, kept or {}, tokens)

    return of


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
