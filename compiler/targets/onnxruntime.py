"""The `onnxruntime` target: the operators that run fast there, and under onnxruntime-genai."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from castline.compiler.passes.gather_block_quantized import GatherBlockQuantized
from castline.compiler.passes.group_query_attention import GroupQueryAttention
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.pack_projections import PackProjections
from castline.compiler.passes.skip_norm import SkipNorm
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.runtime import onnxruntime_module
from castline.compiler.targets.target import Built
from castline.errors import TargetError
from castline.progress import Progress


@dataclass(frozen=True)
class OnnxRuntime:
    """Low-bit products, attention with its cache, and residual norms are one node each."""

    name: str = "onnxruntime"
    dtype: ir.DataType = ir.DataType.FLOAT
    shares_cache: bool = True

    def require(self, recipe: Recipe) -> None:  # noqa: ARG002
        """Raise TargetError if ONNX Runtime is not installed."""
        onnxruntime_module()

    def require_dtype(self, dtype: ir.DataType) -> None:
        """Raise TargetError for bfloat16, which ONNX Runtime's CPU kernels do not have."""
        if dtype == ir.DataType.BFLOAT16:
            raise TargetError(
                "The onnxruntime target has no bfloat16 kernels on CPUs. Use --dtype float32 or "
                "float16, or --target onnx for a bfloat16 graph."
            )

    def lower(self, model: ir.Model, context_length: int) -> tuple[str, ...]:
        """Rewrite into com.microsoft operators; what a pass leaves alone is noted."""
        SkipNorm()(model)
        declined = {
            "multiplied in float": MatMulNBits()(model),
            "looked up in float": GatherBlockQuantized()(model),
            "kept as standard attention": GroupQueryAttention(context_length)(model),
        }
        PackProjections()(model)
        return tuple(
            f"{count} nodes {outcome}: {reason}"
            for outcome, nodes in declined.items()
            for reason, count in Counter(nodes.values()).items()
        )

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:  # noqa: ARG002
        """Nothing is built beyond the model."""
        return Built(facts={})
