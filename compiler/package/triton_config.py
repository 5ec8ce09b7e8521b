"""Write config.pbtxt, by which Triton serves a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TritonTensor:
    """An input or an output, as Triton sees it."""

    name: str
    data_type: str
    """TYPE_INT64, TYPE_FP16 and so on."""
    dims: tuple[int, ...]
    """Without the batch, which comes first; -1 is any size."""

    def to_json(self) -> list[object]:
        """Return it as the manifest has it."""
        return [self.data_type, list(self.dims)]


@dataclass(frozen=True)
class WarmUp:
    """A request of one row that the server runs before it calls the model ready."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]
    """Of every input, without the batch."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Files of the folder `warmup` that inputs are read from; all others are zeros."""


@dataclass(frozen=True)
class TritonModel:
    """What config.pbtxt says."""

    name: str
    backend: str
    max_batch_size: int
    """Rows of a request, or of several that the server joins; at least 1."""
    joins_requests: bool
    inputs: tuple[TritonTensor, ...]
    outputs: tuple[TritonTensor, ...]
    on_gpu: bool
    profiles: int = 0
    """How many optimization profiles an engine has; each instance picks the one that fits."""
    warm_ups: tuple[WarmUp, ...] = ()


def config_text(model: TritonModel) -> str:
    """Return config.pbtxt, a ModelConfig in protobuf's text format.

    Source: protobuf/model_config.proto of triton-inference-server/common.
    """
    lines = [
        f'name: "{model.name}"',
        f'backend: "{model.backend}"',
        f"max_batch_size: {model.max_batch_size}",
        # A version that is added, while the server polls or is told to load, takes over.
        "version_policy { latest { num_versions: 1 } }",
        *(_tensor("input", tensor) for tensor in model.inputs),
        *(_tensor("output", tensor) for tensor in model.outputs),
        *(["dynamic_batching { }"] if model.joins_requests else []),
        _instances(model),
    ]
    for warm_up in model.warm_ups:
        lines += _warm_up(warm_up, model.inputs)
    return "\n".join(lines) + "\n"


def _tensor(field_name: str, tensor: TritonTensor) -> str:
    return (
        f'{field_name} {{ name: "{tensor.name}" data_type: {tensor.data_type} '
        f"dims: {_list(tensor.dims)} }}"
    )


def _instances(model: TritonModel) -> str:
    kind = "KIND_GPU" if model.on_gpu else "KIND_CPU"
    names = ", ".join(f'"{index}"' for index in range(model.profiles))
    profiles = f" profile: [{names}]" if names else ""
    return f"instance_group {{ count: 1 kind: {kind}{profiles} }}"


def _warm_up(warm_up: WarmUp, inputs: tuple[TritonTensor, ...]) -> Iterator[str]:
    yield f'model_warmup {{ name: "{warm_up.name}" batch_size: 1'
    for tensor in inputs:
        file = warm_up.files.get(tensor.name)
        data = "zero_data: true" if file is None else f'input_data_file: "{file}"'
        dims = _list(warm_up.shapes[tensor.name])
        yield (
            f'  inputs {{ key: "{tensor.name}" value {{ data_type: {tensor.data_type} '
            f"dims: {dims} {data} }} }}"
        )
    yield "}"


def _list(dims: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, dims)) + "]"
