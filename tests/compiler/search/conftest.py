"""Build what a search works on: recipes, sites of tiny models, and linears that read something."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from castline.compiler.graph.folds.plan import fold_sites
from castline.compiler.graph.folds.site import Consumer, Site
from castline.compiler.graph.site_roles import Role, site_roles
from castline.compiler.plan.decisions import CalibrationFacts, PlanIdentity, QuantPlan
from castline.compiler.plan.store import PlanStore
from castline.compiler.quant.scheme import ActivationScheme, WeightScheme
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search import planning
from castline.compiler.search.block_plan import BlockSearch, SiteDecision
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.inspection import inspected_path, inspecting
from castline.compiler.search.linear_calls import LinearCalls
from castline.compiler.search.observation import Observations, Observed, Reader
from castline.compiler.search.planning import PlanSearch, Searched
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.second_moments import SecondMoments, first_readers
from castline.compiler.search.site_problem import ReadingLinear, SiteProblem
from castline.compiler.search.student import Student, StudentLinear
from castline.exporters.checkpoint import Checkpoint
from castline.progress import SilentProgress

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
def roles(
    sample: Callable[[str], Any], sites: Callable[[str], tuple[Site, ...]]
) -> Callable[[str], dict[str, Role]]:
    """Return what reads each site of a sample's graph."""
    found: dict[str, dict[str, Role]] = {}

    def of(name: str) -> dict[str, Role]:
        if name not in found:
            found[name] = site_roles(sample(name).graph(), sites(name))
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


@pytest.fixture(scope="session")
def w4a4_qllm() -> Callable[..., Recipe]:
    """Return QLLM with few thresholds and quick steps; other fields in place, or null."""

    def made(learning: dict[str, object] | None = None, **fields: object) -> Recipe:
        quick = {"rank": 2, "window": 2, "epochs": 3, "learning_rate": 0.005}
        recipe: dict[str, object] = {
            "name": "tiny",
            "weights": {"bits": 4, "group_size": "per-channel", "symmetric": False},
            "activations": {
                "bits": 4,
                "granularity": "per-token",
                "scales": "dynamic",
                "symmetric": False,
            },
            "reassembly": {"steps": 3},
            "correction": quick | (learning or {}),
        }
        return Recipe.model_validate(recipe | fields)

    return made


@pytest.fixture(scope="session")
def with_outliers(sample: Callable[[str], Any]) -> Callable[..., Checkpoint]:
    """Return a sample's checkpoint whose norms of blocks make two channels large, its first blocks.

    So there is something to take apart.
    """

    def of(name: str, blocks: int | None = None) -> Checkpoint:
        made = sample(name)
        config = copy.deepcopy(made.config)
        if blocks is not None:
            config.num_hidden_layers = blocks
            if getattr(config, "layer_types", None):
                config.layer_types = config.layer_types[:blocks]
        beyond = tuple(f".layers.{index}." for index in range(config.num_hidden_layers, 9))
        arrays = {
            stored: array.copy()
            for stored, array in made.arrays().items()
            if not any(part in stored for part in beyond)
        }
        for stored, array in arrays.items():
            if ".layers." in stored and stored.endswith("layernorm.weight"):
                array[[3, 40]] = (30.0, 18.0)
        return replace(made.checkpoint(arrays), config=config)

    return of


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
        self.hidden = next(model.entering(tokens, len(tokens)))
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
        checkpoint: Checkpoint | None = None,
    ) -> Iterator[Trial]:
        model = BlockModel(checkpoint or sample(name).checkpoint())
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


@pytest.fixture
def tokens() -> np.ndarray:
    """Return the calibration text of `search`: three samples of eight tokens."""
    return np.random.default_rng(0).integers(3, 100, (3, 8))


@pytest.fixture
def kept() -> dict[str, str]:
    """Return what stays in float when `search` runs, with the reason."""
    return {"model.layers.1.self_attn.k_proj.weight": "the recipe keeps *.1.*k_proj"}


@pytest.fixture
def search(
    sample: Callable[[str], Any],
    sites: Callable[[str], tuple[Site, ...]],
    roles: Callable[[str], dict[str, Role]],
    w8a8: Callable[..., Recipe],
    tokens: np.ndarray,
    kept: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., PlanSearch]:
    """Return the search for a sample's plan, which runs two samples at once, then the third."""
    monkeypatch.setattr(planning, "_TOKENS_AT_ONCE", {"cpu": 16})

    def of(
        name: str = "llama", recipe: Recipe | None = None, checkpoint: Checkpoint | None = None
    ) -> PlanSearch:
        recipe = recipe or w8a8()
        read_by = {} if recipe.reassembly is None else roles(name)
        model = BlockModel(
            checkpoint or sample(name).checkpoint(),
            observes_cache=recipe.cache_scheme is not None,
        )
        return PlanSearch(model, Searched(sites(name), kept, read_by), recipe, tokens)

    return of


@pytest.fixture
def store_in(tokens: np.ndarray) -> Callable[..., PlanStore]:
    """Return the store of a plan, of three blocks, in a folder, begun or gone on with."""

    def begun(folder: Path, recipe: Recipe, blocks: int = 3) -> PlanStore:
        facts = CalibrationFacts("shipped", "t", *tokens.shape, 0, chat_template=False)
        identity = PlanIdentity("c", recipe.searched, facts, "1.0")
        store = PlanStore(folder, identity, recipe.model_dump(mode="json"), blocks)
        store.begin(overwrite=False)
        return store

    return begun


@pytest.fixture
def planned(store_in: Callable[..., PlanStore]) -> Callable[..., QuantPlan]:
    """Return the plan that a search makes in a folder."""

    def made(search: PlanSearch, folder: Path) -> QuantPlan:
        store = store_in(folder, search.recipe, len(search.model.blocks))
        return search.into(store, SilentProgress())

    return made


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Return every file below a folder by its path there."""

    def of(folder: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return of


@dataclass(frozen=True)
class QuantizedWindow:
    """A student, and batches of 2, 2 and 1 samples: what enters it, what leaves it in float."""

    student: Student
    batches: tuple[tuple[torch.Tensor, torch.Tensor], ...]


def w4a4(name: str) -> Quantizer | None:
    """Return how a matrix of that name is quantized; None for routers, which stay in float."""
    weights = WeightScheme(4, "per-channel", symmetric=False)
    activations = ActivationScheme(4, "per-token", dynamic=True, symmetric=False)
    return Quantizer(weights, activations) if "proj" in name else None


@pytest.fixture
def quantized_window(sample: Callable[[str], Any]) -> Callable[..., Any]:
    """Return what opens the first blocks of a sample, each matrix quantized as told by its name."""

    @contextmanager
    def of(
        name: str, blocks: int, quantizes: Callable[[str], Quantizer | None] = w4a4
    ) -> Iterator[QuantizedWindow]:
        model = BlockModel(sample(name).checkpoint())

        def through(run: Callable[[int, torch.Tensor], torch.Tensor], x: torch.Tensor) -> Any:
            for index in range(blocks):
                x = run(index, x)
            return x

        with ExitStack() as loaded:
            for index in range(blocks):
                loaded.enter_context(model.loaded(index))
            entering = [each.clone() for each in model.entering(np.tile(TOKENS, (2, 1))[:5], 2)]
            batches = tuple((each, through(model.run, each).clone()) for each in entering)
            parameters = {n: w for i in range(blocks) for n, w in model.parameters(i).items()}
            linears = dict(_students(parameters, quantizes))
            student = Student(linears, parameters, lambda x: through(model.run_learning, x))
            yield QuantizedWindow(student, batches)

    return of


def _students(
    parameters: dict[str, torch.Tensor], quantizes: Callable[[str], Quantizer | None]
) -> Iterator[tuple[Reader, StudentLinear]]:
    for name, value in parameters.items():
        quantizer = quantizes(name)
        if quantizer is None or value.ndim == 1:
            continue
        for expert in range(len(value)) if value.ndim == 3 else (None,):
            weight = value if expert is None else value[expert]
            weight = weight.T if ".c_" in name else weight  # GPT-2's are [K, N]
            yield (name, expert), StudentLinear(quantizer.weight(weight), quantizer)
