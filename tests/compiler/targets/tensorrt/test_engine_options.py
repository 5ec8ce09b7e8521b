"""Say what may be chosen of an engine: its shapes, its GPUs, and how it is built."""

from __future__ import annotations

import pytest

from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.shape_flags import shape_sets
from castline.compiler.targets.tensorrt.sizes import Sizes
from castline.errors import TargetError


def test_sizes_are_given_in_one_way() -> None:
    shapes = shape_sets((), ["input_ids:1x1"], ())
    with pytest.raises(TargetError, match="given twice"):
        EngineOptions(sizes=Sizes(max_batch_size=2), shapes=shapes)
    assert EngineOptions(shapes=shapes).sizes == Sizes()


def test_scratch_memory_has_a_size() -> None:
    with pytest.raises(TargetError, match="0 bytes are too few"):
        EngineOptions(workspace=0)
