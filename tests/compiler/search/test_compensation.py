"""Codes that make up for one another never answer worse than the nearest ones of their grid."""

from __future__ import annotations

import pytest
import torch

from castline.compiler.quant.scheme import GroupSize, WeightScheme
from castline.compiler.search.compensation import compensated
from castline.compiler.search.fake_grids import FakeGrid, channel_unit, ends, weight_grid


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def correlated(rows: int, k: int, seed: int = 0) -> torch.Tensor:
    """Return activations [rows, K] whose channels go together and differ in size."""
    mix = normal(k, k, seed=seed + 1) / k**0.5 + torch.eye(k)
    return normal(rows, k, seed=seed) @ mix * normal(k, seed=seed + 2).exp()


def grouped(weight: torch.Tensor, group: GroupSize) -> torch.Tensor:
    return weight.reshape(len(weight), -1, group if isinstance(group, int) else weight.shape[1])


def grid_of(groups: torch.Tensor, bits: int, symmetric: bool) -> FakeGrid:
    return weight_grid(*ends(groups), WeightScheme(bits, 16, symmetric))


def squared_error(x: torch.Tensor, groups: torch.Tensor, found: torch.Tensor) -> float:
    apart = (found - groups).reshape(len(groups), -1)
    return float((x.double() @ apart.double().T).square().sum())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("rows", "k", "group"),
    [
        (200, 128, 32),
        (200, 96, 32),  # K is no multiple of the columns that are chosen together
        (200, 100, "per-channel"),
        (5, 64, 16),  # fewer rows than channels: the second moments are singular
        (1, 64, 64),
        (200, 16, 16),
    ],
)
def test_the_error_is_at_most_that_of_the_nearest_codes(
    rows: int, k: int, group: GroupSize, bits: int, symmetric: bool
) -> None:
    x = correlated(rows, k)
    groups = grouped(normal(12, k, seed=5), group)
    grid = grid_of(groups, bits, symmetric)
    fitted, steps = compensated(groups, x.T @ x, grid)
    nearest = squared_error(x, groups, grid.rounded(groups))
    found = squared_error(x, groups, steps * fitted.scale)
    assert found < nearest
    zero = 0 if grid.zero_point is None else grid.zero_point
    codes = steps + zero
    assert torch.equal(codes, codes.round())
    assert codes.amin() >= grid.code_range[0]
    assert codes.amax() <= grid.code_range[1]
    assert (fitted.scale > 0).all()
    assert torch.isfinite(fitted.scale).all()
    if grid.zero_point is not None:
        assert fitted.zero_point is not None
        assert torch.equal(fitted.zero_point, grid.zero_point)


@pytest.mark.parametrize("sweeps", [1, 2, 3])
def test_each_sweep_makes_it_no_worse(sweeps: int) -> None:
    x, groups = correlated(300, 64), grouped(normal(8, 64, seed=5), 16)
    grid = grid_of(groups, 3, symmetric=False)
    errors = []
    for count in (sweeps - 1, sweeps):
        fitted, steps = compensated(groups, x.T @ x, grid, count)
        errors.append(squared_error(x, groups, steps * fitted.scale))
    assert errors[1] <= errors[0] * (1 + 1e-5)


def test_two_channels_that_are_always_equal_share_their_rounding() -> None:
    """Both weights are 0.4 of a step; each alone is rounded down, and 0.8 of the output is lost."""
    groups = torch.tensor([[[0.4, 0.4, 7.0, 0.0]]])
    x = torch.eye(4)
    x[0, 1] = x[1, 0] = 1
    grid = FakeGrid(torch.ones(1, 1, 1), None, (-8, 7))
    fitted, steps = compensated(groups, x.T @ x, grid, sweeps=1)
    assert steps[0, 0, :2].sum() == 1
    assert steps[0, 0, 2:].tolist() == [7, 0]
    # The least-squares scale of (1, 0, 7, 0): the pair is read as a sum by two rows.
    assert fitted.scale.item() == pytest.approx((2 * 0.8 * 1 + 7 * 7) / (2 + 49), rel=1e-5)


def test_independent_channels_keep_the_nearest_codes() -> None:
    groups = grouped(normal(6, 64, seed=5), 16)
    grid = grid_of(groups, 4, symmetric=False)
    _fitted, steps = compensated(groups, torch.diag(normal(64).exp()), grid, sweeps=1)
    torch.testing.assert_close(steps, grid.steps(groups))


def test_channels_that_nothing_reached_keep_the_nearest_codes() -> None:
    x = correlated(200, 64)
    dead = [0, 17, 40, 63]
    x[:, dead] = 0
    groups = grouped(normal(6, 64, seed=5), 16)
    grid = grid_of(groups, 4, symmetric=True)
    _fitted, steps = compensated(groups, x.T @ x, grid)
    nearest = grid.steps(groups).reshape(6, 64)
    assert torch.equal(steps.reshape(6, 64)[:, dead], nearest[:, dead])
    assert not torch.equal(steps.reshape(6, 64), nearest)


def test_a_group_that_nothing_reached_keeps_its_scale() -> None:
    x = correlated(200, 64)
    x[:, 16:32] = 0
    groups = grouped(normal(6, 64, seed=5), 16)
    grid = grid_of(groups, 4, symmetric=True)
    fitted, steps = compensated(groups, x.T @ x, grid)
    assert torch.equal(fitted.scale[:, 1], grid.scale[:, 1])
    assert torch.equal(steps[:, 1], grid.steps(groups)[:, 1])


def test_weights_of_zero_stay_zero() -> None:
    groups = torch.zeros(3, 2, 16)
    fitted, steps = compensated(groups, torch.eye(32), grid_of(groups, 4, symmetric=True))
    assert not steps.any()
    assert (fitted.scale > 0).all()


def test_what_is_handed_in_stays_as_it_is() -> None:
    x, groups = correlated(100, 32), grouped(normal(4, 32, seed=5), 16)
    second, grid = x.T @ x, grid_of(groups, 4, symmetric=False)
    kept = [each.clone() for each in (groups, second, grid.scale)]
    compensated(groups, second, grid)
    for before, after in zip(kept, (groups, second, grid.scale), strict=True):
        assert torch.equal(before, after)


def test_scales_of_two_levels_stay_whole_numbers_of_their_units() -> None:
    x, groups = correlated(200, 96), normal(12, 3, 32, seed=5)
    scheme = WeightScheme(4, 32, symmetric=True, two_level=True)
    unit = channel_unit(groups, scheme)
    assert unit is not None
    grid = weight_grid(*ends(groups), scheme, unit)
    fitted, steps = compensated(groups, x.T @ x, grid)
    whole_numbers = fitted.scale / unit
    torch.testing.assert_close(whole_numbers, whole_numbers.round().clamp(1, 16), rtol=0, atol=0)
    assert (fitted.scale != grid.scale).any(), "they follow their codes"
    nearest = squared_error(x, groups, grid.rounded(groups))
    once = compensated(groups, x.T @ x, grid, sweeps=1)
    after = [squared_error(x, groups, s * g.scale) for g, s in (once, (fitted, steps))]
    assert nearest > after[0] > after[1]
