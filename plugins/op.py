"""Say what an op of ours is: a schema, and a meaning in standard operators."""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx_ir as ir

DOMAIN = "castline"
_VERSION = 1
_STANDARD = '"" : 23'
_OURS = f'"{DOMAIN}" : {_VERSION}'


@dataclass(frozen=True)
class PluginOp:
    """An operator of the domain "castline", written as an ONNX function.

    A runtime without a kernel for it computes the body, which is thus its exact meaning.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[str, ...]
    """Integers, given at every node."""
    body: str
    """Nodes in ONNX's textual form, in operators of opset 23; `@name` reads an attribute."""
    uses: tuple[PluginOp, ...] = ()
    """Other ops of ours that the body has nodes of."""

    def function(self) -> ir.Function:
        """Return the function, anew."""
        attributes = f"<{', '.join(self.attributes)}>" if self.attributes else ""
        signature = f"{self.name} {attributes}({', '.join(self.inputs)})"
        imports = f"{_STANDARD}, {_OURS}" if self.uses else _STANDARD
        header = f'<domain: "{DOMAIN}", opset_import: [{imports}]>'
        text = f"{header}\n{signature} => ({', '.join(self.outputs)}) {{{self.body}}}"
        return ir.from_proto(onnx.parser.parse_function(text))

    def define_in(self, model: ir.Model) -> None:
        """Let nodes of `model` be this op; a model that has it already stays as it is."""
        for op in self.uses:
            op.define_in(model)
        function = self.function()
        model.functions.setdefault(function.identifier(), function)
        model.opset_imports.setdefault(DOMAIN, _VERSION)

    def is_op_of(self, node: ir.Node | None) -> bool:
        """Return whether `node` is this op."""
        return node is not None and (node.domain, node.op_type) == (DOMAIN, self.name)
