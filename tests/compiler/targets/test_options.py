"""Say what may be chosen of a target, beside its name."""

from __future__ import annotations

import pytest

from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.sizes import Sizes
from castline.errors import TargetError


def test_a_capacity_is_of_a_fixed_cache() -> None:
    assert TargetOptions(kv_cache="fixed", kv_capacity=8).kv_capacity == 8
    with pytest.raises(TargetError, match="Add --kv-cache fixed"):
        TargetOptions(kv_capacity=8)
    with pytest.raises(TargetError, match="expected 1 token or more"):
        TargetOptions(kv_cache="fixed", kv_capacity=0)


def test_a_fixed_cache_holds_what_the_engine_s_sizes_say() -> None:
    sizes = EngineOptions(Sizes(max_seq_len=32))
    assert TargetOptions(kv_cache="fixed").capacity(64) == 64
    assert TargetOptions(kv_cache="fixed", engine=sizes).capacity(64) == 32
    assert TargetOptions(kv_cache="fixed", kv_capacity=32, engine=sizes).capacity(64) == 32
    with pytest.raises(TargetError, match="--kv-capacity 8 and --max-seq-len 32 are both"):
        TargetOptions(kv_cache="fixed", kv_capacity=8, engine=sizes)
