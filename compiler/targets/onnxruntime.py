"""The `onnxruntime` target: the operators that run fast there, and under onnxruntime-genai."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir

from castline.compiler.passes.choose_by_tokens import ChooseByTokens
from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.few_tokens import FewTokens
from castline.compiler.passes.float8_casts import Float8Casts
from castline.compiler.passes.gather_block_quantized import GatherBlockQuantized
from castline.compiler.passes.group_query_attention import GroupQueryAttention
from castline.compiler.passes.matmul_integer_to_float import MatMulIntegerToFloat
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.norm_before_transpose import NormBeforeTranspose
from castline.compiler.passes.pack_gates import PackGates
from castline.compiler.passes.pack_projections import PackProjections
from castline.compiler.passes.qmoe import QMoE
from castline.compiler.passes.scatter_channels import ScatterChannels
from castline.compiler.passes.skip_norm import SkipNorm
from castline.compiler.passes.unsigned_codes import UnsignedCodes
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.gpu_providers import (
    lower_for_gpu,
    never_run,
    unsupported_on_gpu,
)
from castline.compiler.targets.graph_forms import cut_logits, form_facts, require_forms
from castline.compiler.targets.options import TargetOptions
from castline.compiler.targets.runtime import onnxruntime_module
from castline.compiler.targets.target import Built, Lowered
from castline.errors import TargetError
from castline.exporters.names import PAST_PREFIX, PRESENT_PREFIX
from castline.progress import Progress


@dataclass(frozen=True)
class OnnxRuntime:
    """Low-bit products and experts, attention with its cache, residual norms: one node each."""

    name: str = "onnxruntime"
    options: TargetOptions = field(default_factory=TargetOptions)

    @property
    def dtype(self) -> ir.DataType:
        """float32; float16 on GPUs, whose kernels for attention and its cache have no other."""
        return ir.DataType.FLOAT if self.options.provider == "cpu" else ir.DataType.FLOAT16

    def require(self, recipe: Recipe) -> None:
        """Raise TargetError if ONNX Runtime is not installed, or for what it has no kernels for."""
        if refused := unsupported_on_gpu(recipe, self.options.provider):
            raise TargetError("\n".join(refused))
        if self.options.kv_cache == "fixed":
            raise TargetError(
                "--kv-cache fixed is for the onnx, tensorrt and tensorrt-rtx targets. The "
                "onnxruntime target has it already: GroupQueryAttention writes new keys and values "
                "into buffers of the runtime's size, in place, wherever genai_config.json says "
                "past_present_share_buffer. Leave --kv-cache out."
            )
        onnxruntime_module()

    def require_dtype(self, dtype: ir.DataType) -> None:
        """Raise TargetError for bfloat16, which ONNX Runtime's CPU kernels do not have."""
        if self.options.provider != "cpu" and dtype == ir.DataType.FLOAT:
            raise TargetError(
                f"--provider {self.options.provider} has no float32 kernel for attention with its "
                "cache. Use --dtype float16, or leave --dtype out."
            )
        if dtype == ir.DataType.BFLOAT16:
            raise TargetError(
                "The onnxruntime target has no bfloat16 kernels on CPUs. Use --dtype float32 or "
                "float16, or --target onnx --no-gate for a bfloat16 graph."
            )

    def require_graph(self, model: ir.Model, recipe: Recipe, context_length: int) -> None:  # noqa: ARG002
        """Raise TargetError where the graph has no logits and the last are asked for."""
        require_forms(model, self.options)

    def lower(self, model: ir.Model, context_length: int) -> Lowered:
        """Rewrite into com.microsoft operators.

        Noted are the experts, low-bit products, lookups and attentions left alone, which cost speed
        or memory. Norms and projections that are not joined are not: the first norm of a model and
        norms of heads never are, and what is not joined runs as fast as it did.
        """
        if self.options.provider != "cpu":
            notes = lower_for_gpu(model, context_length, self.options.provider)
            return Lowered(notes, _appends_in_place(model))
        SkipNorm()(model)
        UnsignedCodes()(model)
        Float8Casts()(model)
        # Before MatMulNBits, which would take the same weights for products in float.
        MatMulIntegerToFloat(ops=())(model)
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
        PackGates()(model)
        shares_cache = _appends_in_place(model)
        few, declined["multiplied as bytes for single tokens, too"] = FewTokens()(model)
        MatMulIntegerToFloat()(model)
        if few is not None:
            ChooseByTokens(few)(model)
        notes = tuple(
            f"{count} nodes {outcome}: {reason}"
            for outcome, nodes in declined.items()
            for reason, count in Counter(nodes.values()).items()
        )
        return Lowered(notes, shares_cache)

    def build(self, folder: Path, context_length: int, progress: Progress) -> Built:  # noqa: ARG002
        """Nothing is built beyond the model."""
        facts = form_facts(self.options, context_length)
        if self.options.provider == "cpu":
            return Built(facts)
        told = never_run(self.options.provider)
        facts |= {"provider": self.options.provider}
        return Built(facts, not_executed=(told,) if told else ())

    def finish(self, folder: Path) -> tuple[str, ...]:
        """Cut the logits to the last token's where that is asked for."""
        return cut_logits(folder, self.options)


def _has_cache(model: ir.Model) -> bool:
    return any(str(value.name).startswith(PAST_PREFIX) for value in model.graph.inputs)


def _appends_in_place(model: ir.Model) -> bool:
    """Return whether all caches are GroupQueryAttention's, which alone may share its buffers."""
    caches = [v for v in model.graph.outputs if str(v.name).startswith(PRESENT_PREFIX)]
    return {_operator(cache) for cache in caches} == {"GroupQueryAttention"}


def _operator(value: ir.Value) -> str | None:
    producer = value.producer()
    return producer.op_type if producer is not None else None
