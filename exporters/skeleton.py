"""Cut a model to one or two layers of each kind, with weights that take no memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from castline.errors import CheckpointError, UnsupportedArchitectureError
from castline.exporters.interface import Interface, interface_of, runs_remote_code
from castline.exporters.layer_stack import layer_stack

# What transformers and torch raise when they build a model of values that do not fit together.
_UNBUILDABLE = (
    KeyError, ValueError, TypeError, IndexError, AttributeError, ArithmeticError, RuntimeError,
    AssertionError,
)  # fmt: skip
_ATTENDING = {"full_attention", "sliding_attention", "chunked_attention"}
_LENGTH_DEPENDENT = ("dynamic", "longrope")


@dataclass(frozen=True)
class Skeleton:
    """A model of a few real layers, and what the whole model would have been."""

    model: PreTrainedModel
    """The cut model; its parameters are untouched memory, its buffers are real."""

    interface: Interface
    """What the whole model takes and gives."""

    stack: str
    """Path of the ModuleList that holds the layers, such as "model.layers"."""

    kinds: tuple[int, ...]
    """Kind of every layer of the whole model, numbered by first appearance."""

    kept: tuple[int, ...]
    """The layers of the whole model that the cut one has, in order: up to two of each kind."""

    shapes: dict[str, tuple[int, ...]]
    """Shape of every parameter and persistent buffer of the whole model, tied ones once."""

    aliases: dict[str, str]
    """Name of a tied parameter -> name under which it is stored."""

    parameters: int
    """Number of elements of the whole model's parameters, tied ones counted once."""

    @property
    def named_shapes(self) -> dict[str, tuple[int, ...]]:
        """`shapes`, with tied parameters under each of their names."""
        return self.shapes | {alias: self.shapes[name] for alias, name in self.aliases.items()}


def skeleton(config: PretrainedConfig) -> Skeleton:
    """Build the cut model of a decoder's or an encoder's configuration.

    Layers are compared by class, scalar attributes and parameter shapes, so kinds that only a
    module knows (dense first layers, layers without positions) are told apart like those that the
    configuration lists. Raises UnsupportedArchitectureError for rotary frequencies that depend on
    the length of the text, and where there is not one list of num_hidden_layers layers;
    CheckpointError when transformers can build no model of the configuration.
    """
    config = copy.deepcopy(config)
    interface = interface_of(config)
    _refuse_other_states(config)
    model = _built(config, AutoModelForCausalLM if interface.cached else AutoModel)
    if not interface.cached and hasattr(model, "pooler"):
        model.pooler = None  # it stands on top of the hidden states
    model.eval().requires_grad_(False)
    model.tie_weights()
    _refuse_length_dependent_positions(model)
    shapes, aliases = _named_shapes(model)
    elements = sum(parameter.numel() for parameter in model.parameters())

    stack, layers = layer_stack(model, config)
    kinds = _kinds(layers, getattr(config, "layer_types", None))
    kept = tuple(
        i for i, kind in enumerate(kinds) if kinds[:i].count(kind) < 2
    )  # the second of a kind proves that the first one generalizes
    _keep_layers(model, stack, layers, kept)
    for part in {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values():
        _cut_config(part, len(kinds), kept)
    _allocate_untouched(model)
    return Skeleton(model, interface, stack, kinds, kept, shapes, aliases, elements)


def _built(
    config: PretrainedConfig, builder: type[AutoModel | AutoModelForCausalLM]
) -> PreTrainedModel:
    try:
        with _parameters_without_memory():
            # The graph is traced in float32, whatever dtype the configuration names, and every
            # architecture has the eager attention; the one that is traced is chosen later.
            model: PreTrainedModel = builder.from_config(
                config,
                attn_implementation="eager",
                dtype=torch.float32,
                trust_remote_code=runs_remote_code(config),
            )
    except _UNBUILDABLE as error:
        raise CheckpointError(
            f"config.json: transformers cannot build a {config.model_type} model of it: "
            f"{type(error).__name__}: {error}. Compare its fields with the model's own page, or "
            "update transformers if the model is newer."
        ) from error
    return model


def _refuse_other_states(config: PretrainedConfig) -> None:
    other = set(getattr(config, "layer_types", None) or ()) - _ATTENDING
    if other:
        raise UnsupportedArchitectureError(
            f"config.json: layer_types has {', '.join(sorted(map(repr, other)))}. Only layers "
            "whose state is a cache of keys and values can be exported: "
            f"{', '.join(sorted(_ATTENDING))}."
        )


def _refuse_length_dependent_positions(model: torch.nn.Module) -> None:
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        if kind in _LENGTH_DEPENDENT:
            raise UnsupportedArchitectureError(
                f"config.json: rope_type is {kind!r}, which changes the rotary frequencies with "
                "the length of the text; a graph with a cache cannot follow. Supported: default, "
                "linear, llama3 and yarn. Take the rope scaling out of config.json to compile the "
                "model for texts up to its original length."
            )


@contextmanager
def _parameters_without_memory() -> Iterator[None]:
    """Put parameters on the meta device while buffers stay real: rotary frequencies are needed."""
    register = torch.nn.Module.register_parameter

    def register_on_meta(
        module: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None
    ) -> None:
        if parameter is not None:
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    torch.nn.Module.register_parameter = register_on_meta
    try:
        yield
    finally:
        torch.nn.Module.register_parameter = register


def _named_shapes(model: torch.nn.Module) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    stored: dict[int, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        first = stored.setdefault(id(parameter), name)
        if first == name:
            shapes[name] = tuple(parameter.shape)
        else:
            aliases[name] = first
    persistent = model.state_dict().keys() - shapes.keys() - aliases.keys()
    shapes |= {name: tuple(model.get_buffer(name).shape) for name in sorted(persistent)}
    return shapes, aliases


def _kinds(layers: torch.nn.ModuleList, layer_types: list[str] | None) -> tuple[int, ...]:
    numbers: dict[object, int] = {}
    kinds = []
    for i, layer in enumerate(layers):
        signature = (_signature(layer), layer_types[i] if layer_types else None)
        kinds.append(numbers.setdefault(signature, len(numbers)))
    return tuple(kinds)


def _signature(layer: torch.nn.Module) -> tuple[object, ...]:
    modules = tuple(
        (name, type(module).__qualname__, _scalars(module))
        for name, module in layer.named_modules()
    )
    tensors = tuple(
        (name, tuple(tensor.shape))
        for named in (layer.named_parameters(), layer.named_buffers())
        for name, tensor in named
    )
    return modules, tensors


def _scalars(module: torch.nn.Module) -> tuple[tuple[str, object], ...]:
    return tuple(
        (key, value)
        for key, value in sorted(vars(module).items())
        if key != "layer_idx" and isinstance(value, bool | int | float | str)
    )


def _keep_layers(
    model: torch.nn.Module, stack: str, layers: torch.nn.ModuleList, kept: tuple[int, ...]
) -> None:
    chosen = torch.nn.ModuleList([layers[i] for i in kept])
    for index, layer in enumerate(chosen):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = index  # the cache is indexed by it
    model.set_submodule(stack, chosen)


def _cut_config(config: PretrainedConfig, depth: int, kept: tuple[int, ...]) -> None:
    for key, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == depth:
            setattr(config, key, [value[i] for i in kept])
    config.num_hidden_layers = len(kept)


def _allocate_untouched(model: torch.nn.Module) -> None:
    """Give meta parameters memory whose pages stay untouched; export refuses meta beside real."""
    replaced: dict[int, torch.nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in replaced:
                empty = torch.empty(parameter.shape, dtype=torch.float32)
                replaced[id(parameter)] = torch.nn.Parameter(empty, requires_grad=False)
            module._parameters[name] = replaced[id(parameter)]
