"""Codes that search chose are the same after they were kept, and are read when they are due."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from castline.compiler.plan import codes as plan_codes
from castline.compiler.plan.codes import CODES, encoded_codes, stored_codes
from castline.compiler.plan.decisions import PlanIdentity, PlannedBlock, PlannedLinear
from castline.compiler.plan.store import PlanStore, read_plan
from castline.compiler.quant.given import GivenCodes
from castline.compiler.quant.round_to_nearest import QuantizedMatrix
from castline.compiler.quant.scheme import GroupSize, WeightScheme
from castline.errors import OutputError

NAME = "model.layers.0.mlp.up_proj.weight"
STACK = "model.layers.0.mlp.experts.gate_up_proj"
RANDOM = np.random.default_rng(0)
K = 32


def matrix(scheme: WeightScheme, n: int) -> QuantizedMatrix:
    """Return every code of a scheme, its least and its largest too."""
    least, most = scheme.code_range
    code_type = np.int8 if scheme.symmetric else np.uint8
    codes = RANDOM.integers(least, most + 1, (K, n)).astype(code_type)
    codes[0, 0], codes[-1, -1] = least, most
    groups = 1 if scheme.group_size == "per-channel" else 2
    zeros = None
    if not scheme.symmetric:
        zeros = RANDOM.integers(least, most + 1, (groups, n)).astype(np.uint8)
    return QuantizedMatrix(codes, RANDOM.uniform(size=(groups, n)).astype(np.float32), zeros)


def given(scheme: WeightScheme, *matrices: QuantizedMatrix) -> GivenCodes:
    return GivenCodes(scheme, lambda: matrices)


def block(**schemes: WeightScheme | None) -> PlannedBlock:
    names = {"up": NAME, "stack": STACK}
    linears = (
        PlannedLinear(names[key], scheme, None, None, None, None, None, 1.0, 1.0)
        for key, scheme in schemes.items()
    )
    return PlannedBlock(0, "model.layers.0", tuple(linears), (), None)


def written(folder: Path, codes: dict[str, GivenCodes]) -> Path:
    path = folder / f"000.{CODES}"
    path.write_bytes(safetensors.numpy.save(encoded_codes(codes)))
    return path


def require_equal(found: QuantizedMatrix, expected: QuantizedMatrix) -> None:
    for part in ("codes", "scales", "zero_points"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n", [6, 7, 1])
@pytest.mark.parametrize("group", [16, "per-channel"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_round_trip(
    tmp_path: Path, bits: int, symmetric: bool, group: GroupSize, n: int
) -> None:
    scheme = WeightScheme(bits, group, symmetric)
    expected = matrix(scheme, n)
    path = written(tmp_path, {NAME: given(scheme, expected)})
    found = stored_codes(path, block(up=scheme))
    assert list(found) == [NAME]
    assert found[NAME].scheme == scheme
    (ours,) = found[NAME].matrices()
    require_equal(ours, expected)


def test_the_matrices_of_a_stack_stay_in_order_beyond_the_tenth(tmp_path: Path) -> None:
    scheme = WeightScheme(4, 16, symmetric=False)
    expected = [matrix(scheme, 3) for _ in range(12)]
    single = matrix(scheme, 5)
    codes = {STACK: given(scheme, *expected), NAME: given(scheme, single)}
    found = stored_codes(written(tmp_path, codes), block(stack=scheme, up=scheme))
    ours = tuple(found[STACK].matrices())
    assert len(ours) == 12
    for one, theirs in zip(ours, expected, strict=True):
        require_equal(one, theirs)
    require_equal(*found[NAME].matrices(), single)


def test_codes_of_4_bits_share_bytes() -> None:
    scheme = WeightScheme(3, 16, symmetric=True)
    arrays = encoded_codes({NAME: given(scheme, matrix(scheme, 7))})
    assert set(arrays) == {f"{NAME}:0:codes", f"{NAME}:0:scales"}
    assert (arrays[f"{NAME}:0:codes"].shape, arrays[f"{NAME}:0:codes"].dtype) == ((K, 4), np.uint8)


def test_nothing_is_read_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheme = WeightScheme(4, 16, symmetric=True)
    path = written(tmp_path, {NAME: given(scheme, matrix(scheme, 6))})
    read = []
    monkeypatch.setattr(plan_codes, "_matrix", lambda *arguments: read.append(arguments))
    found = stored_codes(path, block(up=scheme))
    assert not read
    found[NAME].matrices()
    assert len(read) == 1


def test_a_file_that_is_gone_when_codes_are_due_is_told(tmp_path: Path) -> None:
    scheme = WeightScheme(4, 16, symmetric=True)
    path = written(tmp_path, {NAME: given(scheme, matrix(scheme, 6))})
    found = stored_codes(path, block(up=scheme))
    path.write_bytes(b"cut short")
    with pytest.raises(OutputError, match=rf"000\.{CODES}: was changed or removed since"):
        found[NAME].matrices()
    path.unlink()
    with pytest.raises(OutputError, match="was changed or removed since"):
        found[NAME].matrices()


SYMMETRIC, ZEROS = (WeightScheme(4, 16, symmetric) for symmetric in (True, False))


@pytest.mark.parametrize(
    ("held", "planned", "complaint"),
    [
        (block(up=SYMMETRIC), None, "which the block does not quantize"),
        (block(stack=SYMMETRIC), SYMMETRIC, "which the block does not quantize"),
        (block(up=ZEROS), SYMMETRIC, "not whole, or not of its scheme"),
        (block(up=SYMMETRIC), ZEROS, "not whole, or not of its scheme"),
    ],
)
def test_codes_of_another_block_are_refused(
    tmp_path: Path, held: PlannedBlock, planned: WeightScheme | None, complaint: str
) -> None:
    (linear,) = held.linears
    scheme = planned or SYMMETRIC
    path = written(tmp_path, {NAME: given(scheme, matrix(scheme, 6))})
    if planned is None:
        held = replace(held, linears=(replace(linear, weights=None),))
    with pytest.raises(ValueError, match=complaint):
        stored_codes(path, held)


@pytest.mark.parametrize(
    "lost", [f"{STACK}:1:scales", f"{STACK}:0:codes", f"{STACK}:0:zero_points"]
)
def test_codes_that_are_not_whole_are_refused(tmp_path: Path, lost: str) -> None:
    arrays = encoded_codes({STACK: given(ZEROS, matrix(ZEROS, 3), matrix(ZEROS, 3))})
    del arrays[lost]
    path = tmp_path / f"000.{CODES}"
    path.write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(ValueError, match="are not whole"):
        stored_codes(path, block(stack=ZEROS))


class TestInAPlan:
    """The store keeps a block's codes in a file of their own, with its hash."""

    @pytest.fixture
    def store(self, tmp_path: Path, identity: Callable[..., PlanIdentity]) -> PlanStore:
        store = PlanStore(tmp_path / "plan", identity(), {"name": "r"}, 1)
        store.begin(overwrite=False)
        store.write(replace(block(up=ZEROS), codes={NAME: given(ZEROS, matrix(ZEROS, 7))}))
        store.finish()
        return store

    def test_they_are_read_back(self, store: PlanStore) -> None:
        plan = read_plan(store.folder)
        assert list(plan.codes) == [NAME]
        (found,) = plan.codes[NAME].matrices()
        assert found.codes.shape == (K, 7)
        assert found.zero_points is not None

    def test_a_block_without_codes_has_no_such_file(
        self, tmp_path: Path, identity: Callable[..., PlanIdentity]
    ) -> None:
        store = PlanStore(tmp_path / "plan", identity(), {"name": "r"}, 1)
        store.begin(overwrite=False)
        store.write(block(up=ZEROS))
        assert store.finish().codes == {}
        assert not list(store.folder.rglob(f"*{CODES}"))

    @pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
    def test_a_damaged_file_is_told_when_the_plan_is_opened(
        self, store: PlanStore, damage: str
    ) -> None:
        path = store.folder / "blocks" / f"000.{CODES}"
        content = bytearray(path.read_bytes())
        if damage == "changed":
            content[-1] ^= 1
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
        if damage == "missing":
            path.unlink()
        with pytest.raises(
            OutputError, match=rf"000\.{CODES}: is not what castline quantize wrote"
        ):
            read_plan(store.folder)
