"""Stamp a template's layers into the whole decoder, and name everything by its path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from castline.exporters import names
from castline.exporters.interface import Interface
from castline.exporters.skeleton import Skeleton
from castline.exporters.template import LayerTemplate, Template, at_layer, check_same_kind, scope

_IR_VERSION = 10  # the first with INT4, and old enough for every runtime we write for


def stamp(template: Template, skeleton: Skeleton) -> ir.Model:
    """Return the graph of the whole decoder; its weights are inputs still, one for each parameter.

    Layers of one kind that were traced twice are compared first, so that a difference which the
    modules do not show is refused and not stamped over.
    """
    of_kind = _templates_by_kind(template, skeleton)
    writer = _Writer(template)
    for node in template.prologue:
        writer.copy(node, _path(node, template.stack))
    carry = writer.of(template.layers[0].carry_in)
    for layer, kind in enumerate(skeleton.kinds):
        carry = writer.copy_layer(of_kind[kind], layer, carry)
    writer.hand_on(template.layers[-1].carry_out, carry)
    for node in template.epilogue:
        writer.copy(node, _path(node, template.stack))
    return writer.finish(skeleton.interface, len(skeleton.kinds))


def _templates_by_kind(template: Template, skeleton: Skeleton) -> dict[int, LayerTemplate]:
    chosen: dict[int, LayerTemplate] = {}
    for layer, original in zip(template.layers, skeleton.kept, strict=True):
        kind = skeleton.kinds[original]
        if kind in chosen:
            check_same_kind(chosen[kind], layer, template.stack)
        else:
            chosen[kind] = layer
    return chosen


def _path(node: ir.Node, stack: str) -> str:
    """Return "/model/layers.0/mlp" for a node; what layers share is named after their owner."""
    parts = []
    parent = ""
    for path in scope(node):
        if path.startswith(stack + "."):
            break
        parts.append(path.removeprefix(parent + "."))
        parent = path
    return "".join("/" + part for part in parts)


def _layer_path(node: ir.Node, stack: str, layer: int) -> str:
    parts = []
    parent = ""
    for path in scope(node):
        here = path
        if path.startswith(stack + "."):
            rest = path[len(stack) + 1 :].partition(".")[2]
            here = f"{stack}.{layer}" + (f".{rest}" if rest else "")
        parts.append(here.removeprefix(parent + "."))
        parent = here
    return "".join("/" + part for part in parts)


class _Writer:
    """Copies nodes into a new graph, keeping track of what each template value became."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._source = template.model.graph
        self._values: dict[ir.Value, ir.Value] = {}
        self._inputs: dict[str, ir.Value] = {}
        self._outputs: dict[str, ir.Value] = {}
        self._nodes: list[ir.Node] = []
        self._taken: Counter[str] = Counter()
        self._output_names = {value: str(value.name) for value in self._source.outputs}
        self._initializers = [
            _copy_value(value, str(value.name)) for value in self._source.initializers.values()
        ]
        for old, new in zip(self._source.initializers.values(), self._initializers, strict=True):
            new.const_value = old.const_value
            self._values[old] = new

    def of(self, value: ir.Value) -> ir.Value:
        if value.is_graph_input():
            return self._input(value, str(value.name))
        return self._values[value]

    def hand_on(self, old: ir.Value, new: ir.Value) -> None:
        """Let `new` stand for the last template's hidden state in all that follows the layers."""
        self._values[old] = new
        if old in self._output_names:
            self._name_output(new, self._output_names[old])

    def copy_layer(self, layer: LayerTemplate, index: int, carry: ir.Value) -> ir.Value:
        """Stamp one layer that reads `carry`, and return the hidden state that it hands on."""
        stack = self._template.stack
        local: dict[ir.Value, ir.Value] = {layer.carry_in: carry}

        def of(value: ir.Value) -> ir.Value:
            if value in local:
                return local[value]
            if value.is_graph_input():
                return self._input(value, at_layer(str(value.name), stack, layer.index, index))
            return self._values[value]

        for node in layer.nodes:
            inputs = [None if value is None else of(value) for value in node.inputs]
            stamped = self._add(node, inputs, _layer_path(node, stack, index))
            for old, new in zip(node.outputs, stamped.outputs, strict=True):
                local[old] = new
                if old in self._output_names and old is not layer.carry_out:
                    name = at_layer(self._output_names[old], stack, layer.index, index)
                    self._name_output(new, name)
        return local[layer.carry_out]

    def copy(self, node: ir.Node, path: str) -> None:
        inputs = [None if value is None else self.of(value) for value in node.inputs]
        stamped = self._add(node, inputs, path)
        for old, new in zip(node.outputs, stamped.outputs, strict=True):
            self._values[old] = new
            if old in self._output_names:
                self._name_output(new, self._output_names[old])

    def finish(self, interface: Interface, layers: int) -> ir.Model:
        """Return the stamped nodes as a model: tokens, caches of every layer, then the weights."""
        for value in self._source.inputs:
            if value.name in names.TOKEN_INPUTS:  # it is an input even if nothing reads it
                self._input(value, str(value.name))
        weights = [name for name in self._inputs if not names.is_input(name)]
        used = _used(self._nodes)
        graph = ir.Graph(
            inputs=[self._inputs[name] for name in (*interface.input_names(layers), *weights)],
            outputs=[self._outputs[name] for name in interface.output_names(layers)],
            nodes=self._nodes,
            initializers=[value for value in self._initializers if value in used],
            opset_imports=dict(self._template.model.opset_imports),
            name="main_graph",
        )
        graph.sort()
        _declare_shapes(graph, interface)
        return ir.Model(graph, ir_version=_IR_VERSION, producer_name="castline")

    def _name_output(self, value: ir.Value, name: str) -> None:
        self._outputs[name] = value
        value.name = name

    def _input(self, value: ir.Value, name: str) -> ir.Value:
        if name not in self._inputs:
            self._inputs[name] = _copy_value(value, name)
        return self._inputs[name]

    def _add(self, node: ir.Node, inputs: list[ir.Value | None], path: str) -> ir.Node:
        name = self._unique(f"{path}/{node.op_type}")
        outputs = [_copy_value(value, f"{name}_output_{i}") for i, value in enumerate(node.outputs)]
        stamped = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            _copied_attributes(node.attributes),
            outputs=outputs,
            name=name,
        )
        self._nodes.append(stamped)
        return stamped

    def _unique(self, name: str) -> str:
        self._taken[name] += 1
        return name if self._taken[name] == 1 else f"{name}_{self._taken[name] - 1}"


def _copied_attributes(attributes: Mapping[str, ir.Attr]) -> list[ir.Attr]:
    return [ir.Attr(a.name, a.type, a.value) for a in attributes.values()]


def _copy_value(value: ir.Value, name: str) -> ir.Value:
    shape = None if value.shape is None else value.shape.copy()
    # A type is a mutable object; shared between layers, retyping one would retype all.
    copied = None if value.dtype is None else ir.TensorType(value.dtype)
    return ir.Value(name=name, shape=shape, type=copied)


def _used(nodes: Iterable[ir.Node]) -> set[ir.Value]:
    return {value for node in nodes for value in node.inputs if value is not None}


def _declare_shapes(graph: ir.Graph, interface: Interface) -> None:
    """Give inputs and outputs the axis names that the ecosystem knows."""
    for value in (*graph.inputs, *graph.outputs):
        name = str(value.name)
        if name == names.ATTENTION_MASK and interface.cached:
            value.shape = ir.Shape([names.BATCH, names.TOTAL])
        elif name in names.TOKEN_INPUTS:
            value.shape = ir.Shape([names.BATCH, names.SEQUENCE])
        elif name == interface.output and value.shape is not None:
            value.shape = ir.Shape([names.BATCH, names.SEQUENCE, value.shape[2]])
        elif name.startswith((names.PAST_PREFIX, names.PRESENT_PREFIX)) and value.shape is not None:
            length = names.PAST if name.startswith(names.PAST_PREFIX) else names.TOTAL
            value.shape = ir.Shape([names.BATCH, value.shape[1], length, value.shape[3]])
