"""A narrowed range never costs its part of the output more than the whole one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from castline.compiler.quant.scheme import WeightScheme
from castline.compiler.recipes.scaling import Clipping
from castline.compiler.search import clipping
from castline.compiler.search.clipping import clipped_grid, diagonal_blocks, group_errors
from castline.compiler.search.fake_grids import FakeGrid, channel_unit, ends, weight_grid

SCHEMES = [WeightScheme(bits, 16, symmetric) for bits in (3, 4) for symmetric in (True, False)]
N, G, GROUP = 10, 3, 16


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights() -> torch.Tensor:
    """Return weights [N, G, group] with an outlier in some groups, which clipping is for."""
    groups = normal(N, G, GROUP, seed=1)
    groups[::2, 0, 3] *= 4
    return groups


def read() -> torch.Tensor:
    return normal(100, G * GROUP) * normal(G * GROUP, seed=2).exp()


def errors(x: torch.Tensor, groups: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Return the sum over rows of each group's own part of the error, squared, [N, G]."""
    parts = torch.einsum("tgk,ngk->tng", x.reshape(-1, G, GROUP), found - groups)
    return parts.square().sum(dim=0)


def span(grid: FakeGrid) -> torch.Tensor:
    least, most = grid.code_range
    return grid.scale * (most - least)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_group_has_a_larger_error_than_with_its_whole_range(scheme: WeightScheme) -> None:
    x, groups = read(), weights()
    grid, least = clipped_grid(groups, x.T @ x, scheme, Clipping())
    whole = weight_grid(*ends(groups), scheme)
    found = errors(x, groups, grid.rounded(groups))
    before = errors(x, groups, whole.rounded(groups))
    torch.testing.assert_close(least, found, rtol=1e-3, atol=1e-4)
    assert (found <= before * (1 + 1e-5)).all()
    assert (found < before * 0.95).any()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("shrink", [0.25, 0.5])
def test_a_range_keeps_more_than_shrink_leaves(scheme: WeightScheme, shrink: float) -> None:
    x, groups = read(), weights()
    grid, _ = clipped_grid(groups, x.T @ x, scheme, Clipping(shrink=shrink))
    ratio = span(grid) / span(weight_grid(*ends(groups), scheme))
    assert ratio.max() <= 1 + 1e-6
    assert ratio.min() >= 1 - shrink + 1 / 20 - 1e-6


@pytest.mark.parametrize(
    ("fields", "tried"),
    [({}, 10), ({"shrink": 0.25}, 5), ({"steps": 100}, 50), ({"shrink": 0.01}, 1)],
)
def test_so_many_ranges_are_tried(
    fields: dict[str, Any], tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = []

    def counted(low: torch.Tensor, high: torch.Tensor, *of_groups: Any) -> FakeGrid:
        reached.append(float(torch.maximum(high, -low)[0, 0]))
        return weight_grid(low, high, *of_groups)

    monkeypatch.setattr(clipping, "weight_grid", counted)
    groups = weights()
    clipped_grid(groups, torch.eye(G * GROUP), SCHEMES[0], Clipping(**fields))
    peak = float(groups[0, 0].abs().max())
    steps = fields.get("steps", 20)
    assert reached == pytest.approx([peak * (1 - i / steps) for i in range(tried)])


def test_the_end_that_is_nearer_to_zero_stays_until_the_other_reaches_it() -> None:
    """Weights from -1 to 4: the range is cut at 4 alone."""
    groups = torch.cat([torch.linspace(-1, 2, GROUP - 1), torch.tensor([4.0])]).reshape(1, 1, GROUP)
    second = torch.eye(GROUP)
    second[-1, -1] = 1e-6  # the 4 is hardly ever read, so cutting it off pays
    scheme = WeightScheme(4, 16, symmetric=False)
    grid, _ = clipped_grid(groups, second, scheme, Clipping())
    assert grid.zero_point is not None
    low = float(-grid.zero_point * grid.scale)
    high = float((15 - grid.zero_point) * grid.scale)
    assert low == pytest.approx(-1, abs=float(grid.scale))
    assert high < 4 - float(grid.scale)


def test_groups_that_the_text_never_reached_keep_their_whole_range() -> None:
    groups = weights()
    grid, least = clipped_grid(groups, torch.zeros(48, 48), SCHEMES[2], Clipping())
    assert torch.equal(grid.scale, weight_grid(*ends(groups), SCHEMES[2]).scale)
    assert not least.any()


def test_blocks_on_the_diagonal_by_hand() -> None:
    second = torch.arange(16.0).reshape(4, 4)
    assert diagonal_blocks(second, 2).tolist() == [[[0, 1], [4, 5]], [[10, 11], [14, 15]]]


def test_errors_by_hand() -> None:
    apart = torch.tensor([[[1.0, 2.0], [0.5, 0.0]]])
    blocks = torch.tensor([[[1.0, 0.0], [0.0, 3.0]], [[4.0, 1.0], [1.0, 9.0]]])
    assert group_errors(apart, blocks).tolist() == [[1 + 4 * 3, 0.25 * 4]]


def test_ranges_of_two_levels_are_tried_as_they_are_stored() -> None:
    x, groups = read(), weights()
    scheme = WeightScheme(4, 16, symmetric=True, two_level=True)
    unit = channel_unit(groups, scheme)
    assert unit is not None
    grid, least = clipped_grid(groups, x.T @ x, scheme, Clipping())
    whole_numbers = grid.scale / unit
    torch.testing.assert_close(whole_numbers, whole_numbers.round().clamp(1, 16), rtol=0, atol=0)
    found = errors(x, groups, grid.rounded(groups))
    torch.testing.assert_close(least, found, rtol=1e-3, atol=1e-4)
    before = errors(x, groups, weight_grid(*ends(groups), scheme, unit).rounded(groups))
    assert (found <= before * (1 + 1e-5)).all()
    assert (found < before * 0.95).any()
