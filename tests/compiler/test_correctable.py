"""A correction that cannot be learned is refused before the start, with one that can."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from castline.compiler import correctable
from castline.compiler.correctable import require_correctable
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.search.blocks import BlockModel
from castline.compiler.search.window_memory import window_bytes
from castline.errors import RecipeError

LAYER = [(64, 64), (32, 64), (32, 64), (64, 64), (96, 64), (96, 64), (64, 96)]
ENOUGH = (16, 8)


@pytest.fixture
def required(sample: Callable[[str], Any]) -> Callable[..., None]:
    """Ask for a correction of the three layers of a tiny Llama."""
    model = BlockModel(sample("llama").checkpoint())
    linears = [n for i in range(3) for n in model.parameters(i) if n.endswith("_proj.weight")]
    first = {"k_proj": "q_proj", "v_proj": "q_proj", "up_proj": "gate_proj"}

    def with_first(name: str) -> str:
        leaf = name.split(".")[-2]
        return name.replace(leaf, first.get(leaf, leaf))

    def ask(
        tokens: tuple[int, int] = ENOUGH, rounding: str = "nearest", **correction: object
    ) -> None:
        weights = {"bits": 4, "group_size": "per-channel", "symmetric": True}
        fields = {"name": "mine", "weights": weights, "correction": correction}
        recipe = Recipe.model_validate(fields | {"rounding": rounding})
        require_correctable(model, recipe, {name: with_first(name) for name in linears}, tokens)

    return ask


@pytest.fixture(autouse=True)
def available(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Say how many bytes are free; None, as at first, where the system does not tell."""

    def say(free: int | None) -> None:
        monkeypatch.setattr(correctable, "available_memory", lambda: free)

    say(None)
    return say


def test_what_can_be_learned_is_let_through(required: Callable[..., None]) -> None:
    required(rank=31)
    required((12, 8))  # as many tokens as the widest linear reads channels


def test_a_rank_that_is_a_whole_matrix_names_the_linear(required: Callable[..., None]) -> None:
    with pytest.raises(RecipeError) as caught:
        required(rank=32)
    assert str(caught.value) == (
        "recipe 'mine': correction.rank is 32, and model.layers.0.self_attn.k_proj.weight has 32 "
        "rows and 64 columns: such a correction would be a whole matrix. Expected a rank below 32; "
        "the paper's is 4."
    )


def test_too_few_tokens_say_how_many_samples_would_do(required: Callable[..., None]) -> None:
    with pytest.raises(RecipeError, match=r"has 88 tokens, fewer than the 96 .*--samples 12 at"):
        required((11, 8))
    with pytest.raises(RecipeError, match=r"has 91 tokens, .*--samples 14 at least"):
        required((13, 7))


@pytest.mark.parametrize("fits", [1, 2])
def test_too_little_memory_names_the_window_that_fits(
    required: Callable[..., None], available: Callable[[int | None], None], fits: int
) -> None:
    available(window_bytes(LAYER * fits, 2, 8))
    required(window=fits, batch=2)
    with pytest.raises(
        RecipeError, match=rf"a window of 3 layers takes .*--set correction\.window={fits},"
    ):
        required(window=3, batch=2)


def test_compensated_codes_need_what_linears_read_too(
    required: Callable[..., None], available: Callable[[int | None], None]
) -> None:
    """A layer reads four values: q, k and v one, gate and up one, o and down one each."""
    summed = [(64, 64), (64, 64), (96, 64), (64, 96)]
    more = window_bytes(LAYER * 2, 2, 8, summed=summed * 2)
    available(more - 1)
    required(window=2, batch=2)
    with pytest.raises(RecipeError, match=r"a window of 2 layers .*--set correction\.window=1,"):
        required(window=2, batch=2, rounding="compensated")
    available(more)
    required(window=2, batch=2, rounding="compensated")


def test_a_window_longer_than_the_model_takes_no_more(
    required: Callable[..., None], available: Callable[[int | None], None]
) -> None:
    available(window_bytes(LAYER * 3, 1, 8))
    required(window=64)


def test_where_not_one_layer_fits_shorter_samples_are_the_advice(
    required: Callable[..., None], available: Callable[[int | None], None]
) -> None:
    available(1000)
    with pytest.raises(
        RecipeError, match=r"--set calibration\.length=N with a smaller N, and .*batch=1, or a"
    ):
        required()


def test_without_a_correction_nothing_is_asked(sample: Callable[[str], Any]) -> None:
    model = BlockModel(sample("llama").checkpoint())
    require_correctable(model, Recipe(name="mine", weights=None), {}, (1, 1))
