"""Find the kernels on a GPU, and let the tests state problems as the benchmark does."""

from __future__ import annotations

from pathlib import Path

import pytest

from castline.plugins.binding import Kernels
from castline.plugins.library import find_library

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"
DEVICE = "cuda"


@pytest.fixture(autouse=True)
def beside_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """Return the library that `castline plugins build` built, or that CASTLINE_PLUGINS names."""
    return Kernels(find_library().path)


@pytest.fixture
def device() -> str:
    return DEVICE
