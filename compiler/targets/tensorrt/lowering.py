"""Rewrite a neutral graph for TensorRT: what it lacks is computed by plugins, or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from castline.compiler.passes.authorship import made_by
from castline.compiler.passes.linear_w4a16 import LinearW4A16
from castline.compiler.passes.pack_products import PackProducts
from castline.compiler.passes.pack_weight_only import PackWeightOnly
from castline.compiler.passes.reassemble_for_plugins import ReassembleForPlugins
from castline.compiler.targets.tensorrt.plugin_needs import unread
from castline.compiler.targets.tensorrt.reading import is_plugin
from castline.compiler.targets.tensorrt.refusals import Finding, grouped
from castline.errors import TargetError
from castline.plugins.catalogue import INTEGER_LINEARS, PACKED
from castline.plugins.linear_w4a16.op import LINEAR_W4A16

_NATIVELY = "zero-points of {} added as offsets, which changes no weight"


def lower_natively(model: ir.Model, target: str) -> tuple[str, ...]:
    """Let products take zero-points as offsets, since TensorRT has symmetric INT4 alone.

    `target` is named in errors. Returns notes. Raises TargetError for activations that are
    quantized at run time.
    """
    count = sum(any(op.is_op_of(node) for op in INTEGER_LINEARS) for node in model.graph)
    if count:
        raise TargetError(
            f"Without plugins the {target} target quantizes activations by stored scales alone, "
            f"and the checkpoint has {count} linears that take them at run time. Leave --plugins "
            "never out, or use --target onnxruntime, or a recipe for weights alone, such as "
            "--recipe w8a16-rtn --allow-lossy."
        )
    with made_by(model, "LinearW4A16"):
        products = LinearW4A16()(model)
    return (_NATIVELY.format(f"{products} products"),) if products else ()


def lower_for_plugins(model: ir.Model) -> tuple[str, ...]:
    """Let plugins multiply by zero-points and by activations quantized at run time.

    Stacks of experts take zero-points as offsets, in TensorRT's own operators. Returns notes.
    Raises TargetError that lists every node no plugin computes, with the reason.
    """
    with made_by(model, "PackWeightOnly"):
        weight_only = PackWeightOnly()(model)
    with made_by(model, "PackProducts"):
        products = PackProducts()(model)
    with made_by(model, "ReassembleForPlugins"):
        ReassembleForPlugins()(model)
    refused = [
        *_findings(weight_only.declined, "weight-only product"),
        *_findings(products.declined, "integer product"),
        *unread(model),
    ]
    if refused:
        raise TargetError(_refusal(refused, native=not products.declined))
    with made_by(model, "LinearW4A16"):
        stacks = LinearW4A16()(model)
    _drop_unused(model)
    return (_NATIVELY.format(f"{stacks} stacks of experts"),) if stacks else ()


def _drop_unused(model: ir.Model) -> None:
    """Let go of the bodies of ops that packed ones took the place of."""
    used = {node.op_identifier() for node in model.graph}
    for op in (LINEAR_W4A16, *PACKED):
        identifier = op.function().identifier()
        if identifier not in used:
            model.functions.pop(identifier, None)


def plugin_counts(model: ir.Model) -> dict[str, int]:
    """Return how many nodes of which op plugins compute."""
    return dict(Counter(node.op_type for node in model.graph if is_plugin(node)))


def refuse_misfits(found: Iterable[Finding], *, native: bool) -> None:
    """Raise TargetError where linears do not fit plugins; `native` says there is a way without."""
    refused = list(found)
    if refused:
        raise TargetError(_refusal(refused, native=native))


def _refusal(refused: Iterable[Finding], *, native: bool) -> str:
    lines = "\n".join(f"  {line}" for line in grouped(refused))
    way = "leave them in float (keep: in the recipe), or use --target onnxruntime"
    without = "use --plugins never, or " if native else ""
    return f"Plugins do not compute:\n{lines}\nIf nothing above helps, {without}{way}."


def _findings(declined: Mapping[str, str], kind: str) -> list[Finding]:
    return [Finding(name, kind, reason) for name, reason in declined.items()]
