"""Lower to what ONNX Runtime's execution providers for NVIDIA GPUs have kernels for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx_ir as ir

from castline.compiler.passes.dispatch_tokens import DispatchTokens
from castline.compiler.passes.float8_casts import Float8Casts
from castline.compiler.passes.gather_block_quantized import GatherBlockQuantized
from castline.compiler.passes.group_query_attention import GroupQueryAttention
from castline.compiler.passes.matmul_nbits import MatMulNBits
from castline.compiler.passes.norm_before_transpose import NormBeforeTranspose
from castline.compiler.passes.pack_projections import PackProjections
from castline.compiler.passes.skip_norm import SkipNorm
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.targets.options import Provider
from castline.compiler.targets.runtime import onnxruntime_module
from castline.errors import TargetError
from castline.exporters.names import PAST_PREFIX
from castline.plugins.catalogue import INTEGER_LINEARS

EXECUTION_PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
_RUNTIME_CHOOSES = 0  # of MatMulNBits: GPUs multiply in the dtype of what is read


def unsupported_on_gpu(recipe: Recipe, provider: Provider) -> tuple[str, ...]:
    """Return a sentence or two for each part of a recipe that a GPU provider has no kernels for.

    There is none on the CPU. Source for CUDA: docs/OperatorKernels.md of ONNX Runtime, which has no
    DynamicQuantizeLinear and no MatMulIntegerToFloat there. TensorRT-RTX takes symmetric weights,
    and scales of activations that are stored.
    """
    if provider == "cpu":
        return ()
    of_one = _of_cuda(recipe) if provider == "cuda" else _of_tensorrt_rtx(recipe)
    return (*of_one, *_of_both(recipe, provider))


def lower_for_gpu(model: ir.Model, context_length: int, provider: Provider) -> tuple[str, ...]:
    """Rewrite the neutral graph in place for a GPU provider; return notes.

    CUDA: MatMulNBits, GatherBlockQuantized, SkipSimplifiedLayerNormalization and
    GroupQueryAttention. TensorRT-RTX: GroupQueryAttention, which its provider brings, and the
    standard operators for all else, weights as DequantizeLinear. Source: the model builder of
    onnxruntime-genai 0.18, builders/base.py and builders/expansions/trt_rtx.py.

    The attention has no bias, so rows may be padded on the right alone. Raises TargetError for what
    a quantized checkpoint brought that the provider has no kernels for.
    """
    assert provider != "cpu", "the onnxruntime target lowers for the CPU itself"
    _refuse_stored(model, provider)
    Float8Casts()(model)
    declined = {"computed by every expert": DispatchTokens()(model)}
    if provider == "cuda":
        SkipNorm()(model)
        declined["multiplied in float"] = MatMulNBits(accuracy_level=_RUNTIME_CHOOSES)(model)
        declined["looked up in float"] = GatherBlockQuantized()(model)
    if any(str(value.name).startswith(PAST_PREFIX) for value in model.graph.inputs):
        NormBeforeTranspose()(model)
        attention = GroupQueryAttention(context_length, bias=False)
        declined["kept as standard attention"] = attention(model)
    if provider == "cuda":
        PackProjections()(model)
    return tuple(
        f"{count} nodes {outcome}: {reason}"
        for outcome, nodes in declined.items()
        for reason, count in Counter(nodes.values()).items()
    )


def never_run(provider: Provider) -> str | None:
    """Return what was not run on this machine, a sentence; None where it has the provider."""
    name = EXECUTION_PROVIDERS[provider]
    if name in onnxruntime_module().get_available_providers():
        return None
    return (
        f"The folder is made for {name}, which ONNX Runtime here does not have; checks run the "
        "same graph on CPUExecutionProvider."
    )


def _of_both(recipe: Recipe, provider: Provider) -> Iterator[str]:
    if recipe.attention is not None:
        yield (
            f"--provider {provider} attends in float alone, and recipe {recipe.name!r} quantizes "
            "what attention reads. Use --set attention=null."
        )
    if recipe.reassembly is not None:
        yield (
            f"--provider {provider} has no kernel that takes channels apart, and recipe "
            f"{recipe.name!r} does so. Use --set reassembly=null."
        )


def _of_cuda(recipe: Recipe) -> Iterator[str]:
    if recipe.activations_scheme is not None:
        yield (
            "--provider cuda has no kernels for activations in codes, which would run on the CPU, "
            f"and recipe {recipe.name!r} has them. Use a recipe for weights alone, such as "
            "w4a16-awq, or --target tensorrt-rtx."
        )


def _of_tensorrt_rtx(recipe: Recipe) -> Iterator[str]:
    activations = recipe.activations_scheme
    if activations is not None and activations.dynamic:
        yield (
            "--provider tensorrt-rtx quantizes activations by stored scales alone, and recipe "
            f"{recipe.name!r} takes them at run time. Use w8a8-smoothquant-static, or --target "
            "tensorrt-rtx, which has plugins for it."
        )
    schemes = {
        "weights": recipe.weights_scheme,
        "activations": activations,
        "head": recipe.head_scheme,
        "embedding": recipe.embedding_scheme,
    }
    if refused := [name for name, scheme in schemes.items() if scheme and not scheme.symmetric]:
        yield (
            f"--provider tensorrt-rtx takes no zero-points, and recipe {recipe.name!r} has them in "
            f"{', '.join(refused)}. Use {' '.join(f'--set {n}.symmetric=true' for n in refused)}, "
            "or --target tensorrt-rtx."
        )


def _has_zero_points(node: ir.Node) -> bool:
    """Whether a node reads unsigned codes, which only asymmetric schemes have."""
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else None
    return codes is not None and codes.dtype in (ir.DataType.UINT4, ir.DataType.UINT8)


def _refuse_stored(model: ir.Model, provider: Provider) -> None:
    """Refuse what a quantized checkpoint brought; of a recipe it was refused before."""
    refused = {
        "quantize activations at run time": [
            node for node in model.graph if any(op.is_op_of(node) for op in INTEGER_LINEARS)
        ],
        "have zero-points": [
            node for node in model.graph if provider == "tensorrt-rtx" and _has_zero_points(node)
        ],
    }
    told = [f"{len(nodes)} linears that {what}" for what, nodes in refused.items() if nodes]
    if told:
        raise TargetError(
            f"--provider {provider} has no kernels for {' and '.join(told)}, as the checkpoint's "
            "codes do. Leave --provider out, or give a recipe for weights alone, such as --recipe "
            "w4a16-awq-sym --allow-lossy."
        )
