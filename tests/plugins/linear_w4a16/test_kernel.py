"""The kernels of float activations by 4-bit weights, on the emulator, beside float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from castline.errors import PluginError
from castline.plugins.array_kernels import ArrayKernels
from castline.plugins.linear_w4a16.packed import packed_linear_w4a16
from castline.plugins.packing import pack, pack_scales

# One rounding to the type of y, and products in float32 before it.
TOLERANCE = {"float16": 3e-4, "bfloat16": 2.5e-3}
TYPES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# Tokens, output channels, input channels, group. Decode takes up to 8 and up to 16 tokens, then
# tiles 32, 64 and 128; channels end within strips, input channels within halves and blocks.
SHAPES = [
    (1, 16, 64, 64),
    (3, 40, 160, 32),
    (8, 32, 128, 128),
    (9, 48, 2112, 64),
    (16, 16, 1024, 1024),
    (17, 130, 576, 128),
    (33, 64, 96, 32),
    (65, 144, 1088, 128),
    (129, 20, 144, 64),
    (260, 24, 96, 32),  # expanded, then multiplied as matrices
]


class Problem:
    """A product with random operands, and the same in float64."""

    def __init__(
        self, shape: tuple[int, int, int, int], float_type: str, offsets: str, seed: int = 0
    ) -> None:
        self.m, self.n, self.k, self.group = shape
        random = np.random.default_rng(seed)
        groups = -(-self.k // self.group)
        self.type = TYPES[float_type]
        self.x = random.normal(size=(self.m, self.k)).astype(self.type)
        self.codes = random.integers(-8, 8, (self.n, self.k)).astype(np.int8)
        self.scales = random.uniform(0.01, 0.1, (self.n, groups)).astype(self.type)
        self.offsets = (
            random.integers(-8, 8, (self.n, groups)).astype(np.int8)
            if offsets == "zero points"
            else random.normal(size=(self.n, groups)).astype(np.float32)
        )
        self.bias = random.normal(size=self.n).astype(self.type)

    def run(self, kernels: ArrayKernels, tactic: int = 0) -> np.ndarray:
        """Return y of the kernels."""
        parts = pack_scales(self.scales), pack_scales(self.offsets)
        sizes = {"n": self.n, "k": self.k, "group": self.group}
        y = kernels.weight_only(
            self.x, pack(self.codes, 4), *parts, self.bias, **sizes, tactic=tactic
        )
        return np.asarray(y)

    def expected(self) -> np.ndarray:
        """Return y in float64."""

        def each(values: np.ndarray) -> np.ndarray:
            return np.repeat(values.astype(np.float64), self.group, 1)[:, : self.k]

        if self.offsets.dtype == np.int8:
            weights = (self.codes - each(self.offsets)) * each(self.scales)
        else:
            weights = self.codes * each(self.scales) + each(self.offsets)
        y: np.ndarray = self.x.astype(np.float64) @ weights.T + self.bias.astype(np.float64)
        return y


def distance(y: np.ndarray, expected: np.ndarray) -> float:
    """Return the error's share of the norm."""
    wide = y.astype(np.float64)
    return float(np.linalg.norm(wide - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("offsets", ["zero points", "float offsets"])
@pytest.mark.parametrize("float_type", TYPES)
def test_every_regime_computes_the_product(
    shape: tuple[int, int, int, int], float_type: str, offsets: str, emulated: ArrayKernels
) -> None:
    problem = Problem(shape, float_type, offsets)
    assert distance(problem.run(emulated), problem.expected()) < TOLERANCE[float_type]


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(1, 40),
    n=st.integers(1, 50),
    groups=st.integers(1, 8),
    group=st.sampled_from([32, 64, 128]),
)
def test_kernel_reference_and_torch_agree_at_any_size(
    m: int, n: int, groups: int, group: int, emulated: ArrayKernels
) -> None:
    problem = Problem((m, n, groups * group, group), "float16", "zero points")
    parts = (pack(problem.codes, 4), pack_scales(problem.scales), pack_scales(problem.offsets))
    reference = packed_linear_w4a16(problem.x, *parts, problem.bias)

    def each(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(values).double().repeat_interleave(group, 1)

    codes, zero_points = torch.from_numpy(problem.codes), each(problem.offsets)
    x, bias = torch.from_numpy(problem.x).double(), torch.from_numpy(problem.bias).double()
    scales = each(problem.scales)
    expected = torch.nn.functional.linear(x, (codes - zero_points) * scales, bias).numpy()
    # Sums may cancel: what is added up says how far float32 may be off, beside one rounding.
    added = torch.nn.functional.linear(x.abs(), (codes.abs() + zero_points.abs()) * scales)
    tolerance = 2**-10 * np.abs(expected) + 2e-5 * (added + bias.abs()).numpy()
    assert (np.abs(reference - expected) <= tolerance).all()
    assert (np.abs(problem.run(emulated) - expected) <= tolerance).all()


@pytest.mark.parametrize("shape", [(2, 80, 2048, 128), (12, 80, 2048, 128), (20, 140, 1152, 64)])
def test_every_tactic_computes_the_product(
    shape: tuple[int, int, int, int], emulated: ArrayKernels
) -> None:
    problem = Problem(shape, "float16", "zero points")
    tactics = emulated.kernels.tactics(
        emulated.product(*shape[:3], "float16", 4, shape[3]), integer=False, max_m=shape[0]
    )
    assert len(set(tactics)) == len(tactics) > 1
    assert 0 not in tactics
    for tactic in tactics:
        assert distance(problem.run(emulated, tactic), problem.expected()) < TOLERANCE["float16"]


@pytest.mark.parametrize("m", [5, 40])
def test_the_order_of_blocks_and_warps_changes_no_bit(
    m: int, order: str, emulated: ArrayKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem((m, 48, 2048, 128), "float16", "zero points")
    y = problem.run(emulated)
    monkeypatch.delenv("CASTLINE_EMULATOR_REVERSE", raising=False)
    assert np.array_equal(y.view(np.uint16), problem.run(emulated).view(np.uint16)), order


@pytest.mark.parametrize("m", [4, 24])
def test_codes_and_zero_points_at_their_extremes_are_exact(m: int, emulated: ArrayKernels) -> None:
    problem = Problem((m, 32, 128, 64), "float16", "zero points")
    problem.x = np.ones_like(problem.x)
    problem.codes[:, ::2], problem.codes[:, 1::2] = -8, 7
    problem.offsets[:, 0], problem.offsets[:, 1] = -8, 7
    problem.scales[:] = 0.5
    problem.bias[:] = 0
    assert np.array_equal(problem.run(emulated).astype(np.float64), problem.expected())


def test_a_token_that_is_not_finite_leaves_the_others_alone(emulated: ArrayKernels) -> None:
    problem = Problem((3, 16, 64, 32), "float16", "zero points")
    expected = problem.expected()
    problem.x[1, 5] = np.inf
    y = problem.run(emulated)
    assert not np.isfinite(y[1]).any()
    assert distance(y[::2], expected[::2]) < TOLERANCE["float16"]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((1, 16, 72, 72), "must be a multiple of 16"),
        ((1, 16, 192, 96), "groups of 96"),
        ((1, 16, 64, 16), "groups of 16"),
    ],
)
def test_what_no_kernel_takes_is_refused_with_the_reason(
    shape: tuple[int, int, int, int], reason: str, emulated: ArrayKernels
) -> None:
    with pytest.raises(PluginError, match=reason):
        Problem(shape, "float16", "zero points").run(emulated)


def test_an_unknown_tactic_is_refused(emulated: ArrayKernels) -> None:
    with pytest.raises(PluginError, match="no tactic 99"):
        Problem((1, 16, 64, 64), "float16", "zero points").run(emulated, tactic=99)
