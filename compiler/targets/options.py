"""Say what may be chosen of a target, beside its name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.plugin_library import PluginUse
from castline.errors import TargetError

CacheForm: TypeAlias = Literal["growing", "fixed"]
"""growing: present is past with the new rows behind it; fixed: rows are put into one buffer."""

LogitsOf: TypeAlias = Literal["all", "last"]
"""all: of every token; last: of the last one of each row alone."""

Provider: TypeAlias = Literal["cpu", "cuda", "tensorrt-rtx"]
"""The execution provider of ONNX Runtime that a folder is made for."""


@dataclass(frozen=True)
class TargetOptions:
    """What a user may choose of any target; a target refuses what it does not have.

    `kv_capacity` is how many tokens a fixed cache holds; None: what the engine's sizes say, or the
    model's context length.

    Raises:
        TargetError: a capacity is below one, is given for a cache that grows, or given twice.
    """

    plugins: PluginUse = "auto"
    engine: EngineOptions = field(default_factory=EngineOptions)
    kv_cache: CacheForm = "growing"
    kv_capacity: int | None = None
    logits: LogitsOf = "all"
    provider: Provider = "cpu"

    def __post_init__(self) -> None:
        if self.kv_capacity is None:
            return
        if self.kv_cache != "fixed":
            raise TargetError(
                f"--kv-capacity {self.kv_capacity} is for a fixed cache; a growing one has no "
                "capacity. Add --kv-cache fixed, or leave it out."
            )
        if self.kv_capacity < 1:
            raise TargetError(f"--kv-capacity {self.kv_capacity}: expected 1 token or more.")
        longest = self.engine.sizes.max_seq_len
        if longest not in {None, self.kv_capacity}:
            raise TargetError(
                f"--kv-capacity {self.kv_capacity} and --max-seq-len {longest} are both the tokens "
                "that a fixed cache holds. Give one of them."
            )

    def capacity(self, context_length: int) -> int:
        """Return how many tokens a fixed cache holds."""
        return self.kv_capacity or self.engine.sizes.max_seq_len or context_length
