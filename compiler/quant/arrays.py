"""Name the type of the arrays that the compiler computes with."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]
