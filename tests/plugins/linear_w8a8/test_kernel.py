"""The kernels of codes by codes, on the emulator: the op's numbers, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castline.errors import PluginError
from castline.plugins.array_kernels import ArrayKernels
from castline.plugins.packed_product import packed_linear_asymmetric
from castline.plugins.packing import pack, pack_scales

TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
SHAPES = [
    (1, 16, 64),
    (3, 40, 160),
    (8, 33, 128),
    (9, 48, 2112),
    (16, 16, 1024),
    (17, 130, 576),
    (33, 64, 96),
    (65, 144, 1088),
    (129, 20, 144),
    (260, 24, 96),  # expanded, then multiplied as matrices
]
FORMS = {  # bits, zero-points of tokens and of weights
    "W8A8": (8, (False, False)),
    "W8A8, tokens": (8, (True, False)),
    "W4A8": (4, (False, False)),
    "W4A8, tokens": (4, (True, False)),
    "W4A8, weights": (4, (False, True)),
    "W4A8, both": (4, (True, True)),
}


class Problem:
    """A product of random codes, and its numbers by the formula of the op."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        bits: int,
        float_type: str = "float16",
        zero_points: tuple[bool, bool] = (False, False),
        group: int | None = None,
    ) -> None:
        self.m, self.n, self.k = shape
        self.bits, self.group = bits, group
        random = np.random.default_rng(0)
        low = -(1 << (bits - 1))
        of_tokens, of_weights = zero_points
        self.codes = random.integers(-128, 128, (self.m, self.k)).astype(np.int8)
        self.scale = random.uniform(0, 0.1, (self.m, 1)).astype(np.float32)
        self.zero_point = (
            random.integers(-128, 128, (self.m, 1)).astype(np.int8) if of_tokens else None
        )
        self.weights = random.integers(low, -low, (self.n, self.k)).astype(np.int8)
        self.weight_scale = random.uniform(0, 0.001, self.n).astype(TYPES[float_type])
        self.weight_zero_point = (
            random.integers(-8, 8, self.n).astype(np.int8) if of_weights else None
        )
        self.bias = random.normal(size=self.n).astype(TYPES[float_type])
        groups = 1 if group is None else -(-self.k // group)
        self.group_scales = random.integers(1, 16, (self.n, groups)).astype(np.int8)

    def steps(self) -> np.ndarray:
        """Return the integers that stand for the weights, int64 [n, k]."""
        steps = self.weights.astype(np.int64)
        if self.group is not None:
            steps *= np.repeat(self.group_scales.astype(np.int64), self.group, 1)[:, : self.k]
        if self.weight_zero_point is not None:
            steps -= self.weight_zero_point[:, None]
        return steps

    def run(self, kernels: ArrayKernels, tactic: int = 0) -> np.ndarray:
        """Return y of the kernels."""
        grouped = (
            {}
            if self.group is None
            else {"group_scales": pack_scales(self.group_scales), "group": self.group}
        )
        y = kernels.integer(
            *(self.codes, self.scale, pack(self.weights, self.bits), self.weight_scale, self.bias),
            n=self.n,
            k=self.k,
            weight_bits=self.bits,
            zero_point=self.zero_point,
            weight_zero_point=self.weight_zero_point,
            weight_sums=None if self.zero_point is None else self.steps().sum(1).astype(np.int32),
            tactic=tactic,
            **grouped,
        )
        return np.asarray(y)

    def expected(self) -> np.ndarray:
        """Return the sums as integers, scaled in float32 in the op's order, rounded once."""
        codes = self.codes.astype(np.int64)
        if self.zero_point is not None:
            codes -= self.zero_point
        sums = (codes @ self.steps().T).astype(np.float32)
        wide = sums * self.weight_scale.astype(np.float32) * self.scale
        y: np.ndarray = (wide + self.bias.astype(np.float32)).astype(self.bias.dtype)
        return y


def assert_same_bits(y: np.ndarray, expected: np.ndarray) -> None:
    assert np.array_equal(y.view(np.uint16), expected.view(np.uint16))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_regime_has_the_numbers_of_the_op(
    shape: tuple[int, int, int], form: str, emulated: ArrayKernels
) -> None:
    bits, zero_points = FORMS[form]
    problem = Problem(shape, bits, zero_points=zero_points)
    assert_same_bits(problem.run(emulated), problem.expected())


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_groups_of_two_levels_are_summed_as_integers(
    shape: tuple[int, int, int], group: int, emulated: ArrayKernels
) -> None:
    problem = Problem(shape, 4, zero_points=(True, False), group=group)
    assert_same_bits(problem.run(emulated), problem.expected())


def by_torch(problem: Problem) -> np.ndarray:
    """Return y of a problem by torch's integers and floats."""
    assert problem.zero_point is not None
    codes = torch.from_numpy(problem.codes).int() - torch.from_numpy(problem.zero_point).int()
    sums = torch.matmul(codes, torch.from_numpy(problem.steps().astype(np.int32)).T)
    weight_scale = torch.from_numpy(problem.weight_scale).float()
    wide = sums.float() * weight_scale * torch.from_numpy(problem.scale)
    return (wide + torch.from_numpy(problem.bias).float()).half().numpy()


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 50),
    blocks=st.integers(1, 30),
    bits=st.sampled_from([4, 8]),
)
def test_kernel_reference_and_torch_agree_at_any_size(
    m: int, n: int, blocks: int, bits: int, emulated: ArrayKernels
) -> None:
    problem = Problem((m, n, 16 * blocks), bits, zero_points=(True, bits == 4))
    no_zero_points = np.zeros(n, np.int8)
    zero_points = problem.weight_zero_point
    reference = packed_linear_asymmetric(
        *(problem.codes, problem.scale, problem.zero_point, pack(problem.weights, bits)),
        problem.weight_scale,
        no_zero_points if zero_points is None else zero_points,
        problem.steps().sum(1).astype(np.int32),
        problem.bias,
        bits=bits,
    )
    assert_same_bits(reference, by_torch(problem))
    assert_same_bits(problem.run(emulated), reference)


@pytest.mark.parametrize("m", [7, 100])
@pytest.mark.parametrize("bits", [4, 8])
def test_bfloat16_is_rounded_once(m: int, bits: int, emulated: ArrayKernels) -> None:
    problem = Problem((m, 48, 192), bits, "bfloat16", (True, False))
    assert_same_bits(problem.run(emulated), problem.expected())


@pytest.mark.parametrize("shape", [(2, 80, 2048), (12, 80, 2048), (20, 140, 1152)], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
def test_every_tactic_has_the_same_bits(
    shape: tuple[int, int, int], bits: int, emulated: ArrayKernels
) -> None:
    problem = Problem(shape, bits, zero_points=(True, bits == 4))
    product = emulated.product(*shape, "float16", bits)
    for tactic in emulated.kernels.tactics(product, integer=True, max_m=shape[0]):
        assert_same_bits(problem.run(emulated, tactic), problem.expected())


@pytest.mark.parametrize("m", [6, 40])
def test_the_largest_sums_do_not_overflow(m: int, emulated: ArrayKernels) -> None:
    problem = Problem((m, 16, 16384), 4)
    problem.codes[:], problem.weights[:] = -128, -8
    assert_same_bits(problem.run(emulated), problem.expected())


def test_the_order_of_blocks_and_warps_changes_no_bit(order: str, emulated: ArrayKernels) -> None:
    problem = Problem((5, 48, 2048), 4, zero_points=(True, True))
    assert_same_bits(problem.run(emulated), problem.expected())
    assert order in ("first to last", "last to first")


def test_8_bit_weights_with_zero_points_are_refused(emulated: ArrayKernels) -> None:
    with pytest.raises(PluginError, match="zero-points of weights go with 4-bit weights"):
        Problem((1, 16, 64), 8, zero_points=(False, True)).run(emulated)


def test_groups_of_8_bit_weights_are_refused(emulated: ArrayKernels) -> None:
    problem = Problem((1, 16, 128), 8, group=64)
    with pytest.raises(PluginError, match="go with 4-bit weights without zero-points"):
        problem.run(emulated)
