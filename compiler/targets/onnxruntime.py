"""The `onnxruntime` target: the operators that run fast there, and under onnxruntime-genai."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.float8_casts import Float8Casts
from castline.compiler.passes.gather_block_quantized import GatherBlockQuantized
from castline.compiler.passes.group_query_attention import GroupQueryAttention
from castline.compiler.passes.matmul_integer_to_float import MatMulIntegerToFloat
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.norm_before_transpose import NormBeforeTranspose
from castline.compiler.passes.pack_projections import PackProjections
from castline.compiler.passes.qmoe import QMoE
from castline.compiler.passes.scatter_channels import ScatterChannels
from castline.compiler.passes.skip_norm import SkipNorm
from castline.compiler.passes.unsigned_codes import UnsignedCodes
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.runtime import onnxruntime_module
from castline.compiler.targets.target import Built, Lowered
from castline.errors import TargetError
from castline.exporters.names import PAST_PREFIX, PRESENT_PREFIX
from castline.progress import Progress


@dataclass(frozen=True)
class OnnxRuntime:
    """Low-bit products and experts, attention with its cache, residual norms: one node each."""

    name: str = "onnxruntime"
    dtype: ir.DataType = ir.DataType.FLOAT

    def require(self, recipe: Recipe) -> None:  # noqa: ARG002
        """Raise TargetError if ONNX Runtime is not installed."""
        onnxruntime_module()

    def require_dtype(self, dtype: ir.DataType) -> None:
        """Raise TargetError for bfloat16, which ONNX Runtime's CPU kernels do not have."""
        if dtype == ir.DataType.BFLOAT16:
            raise TargetError(
                "The onnxruntime target has no bfloat16 kernels on CPUs. Use --dtype float32 or "
                "float16, or --target onnx --no-gate for a bfloat16 graph."
            )

    def require_graph(self, model: ir.Model, recipe: Recipe) -> None:
        """Every float graph can be computed, however it is quantized."""

    def lower(self, model: ir.Model, context_length: int) -> Lowered:
        """Rewrite into com.microsoft operators.

        Noted are the experts, low-bit products, lookups and attentions left alone, which cost speed
        or memory. Norms and projections that are not joined are not: the first norm of a model and
        norms of heads never are, and what is not joined runs as fast as it did.
        """
        SkipNorm()(model)
        UnsignedCodes()(model)
        Float8Casts()(model)
        # Before MatMulNBits, which would take the same weights for products in float.
        MatMulIntegerToFloat()(model)
        declined = {
            # What QMoE leaves is dispatched, and then each expert's product is one of the others.
            "multiplied expert by expert": QMoE()(model),
            "computed by every expert": DispatchTokens()(model),
            "multiplied in float": MatMulNBits()(model),
            "looked up in float": GatherBlockQuantized()(model),
        }
        # After those that know the op before experts.
        declined["reassembled by transposing"] = ScatterChannels()(model)
        if _has_cache(model):  # an encoder's attention has no faster form on CPUs
            NormBeforeTranspose()(model)
            attentions = GroupQueryAttention(context_length)(model)
            declined["kept as standard attention"] = attentions
        PackProjections()(model)
        notes = tuple(
            f"{count} nodes {outcome}: {reason}"
            for outcome, nodes in declined.items()
            for reason, count in Counter(nodes.values()).items()
        )
        return Lowered(notes, shares_cache=_appends_in_place(model))

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:  # noqa: ARG002
        """Nothing is built beyond the model."""
        return Built(facts={})


def _has_cache(model: ir.Model) -> bool:
    return any(str(value.name).startswith(PAST_PREFIX) for value in model.graph.inputs)


def _appends_in_place(model: ir.Model) -> bool:
    """Return whether all caches are GroupQueryAttention's, which alone may share its buffers."""
    caches = [v for v in model.graph.outputs if str(v.name).startswith(PRESENT_PREFIX)]
    return {_operator(cache) for cache in caches} == {"GroupQueryAttention"}


def _operator(value: ir.Value) -> str | None:
    producer = value.producer()
    return producer.op_type if producer is not None else None
