"""Tiny random models, each traced once in a run, and a way to compare a graph with the model."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import yaml
from numpy.typing import NDArray
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
)

from castline.compiler.targets.write import write_model
from castline.exporters.bind import bind
from castline.exporters.checkpoint import Checkpoint
from castline.exporters.interface import interface_of
from castline.exporters.readers.tensors import TensorSpec
from castline.exporters.retype import retype
from castline.exporters.skeleton import Skeleton, skeleton
from castline.exporters.stamp import stamp
from castline.exporters.template import Template, template
from castline.exporters.trace import trace

Array = NDArray[Any]

SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 131,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
PADDING = 5
PROMPT = 16  # longer than the windows in architectures.yaml, so that they matter

VARIANTS: dict[str, PretrainedConfig] = {
    "llama, tied, biases, llama3 rope": LlamaConfig(
        **SIZES | {"tie_word_embeddings": True},
        attention_bias=True,
        mlp_bias=True,
        rope_parameters=LLAMA3,
    ),
    "one layer, no groups, yarn, bfloat16": LlamaConfig(
        **SIZES | {"num_hidden_layers": 1, "num_key_value_heads": 4},
        rope_parameters=YARN,
        use_cache=False,
        dtype="bfloat16",
    ),
    "one key head, odd head_dim, linear rope": LlamaConfig(
        **SIZES | {"num_key_value_heads": 1},
        head_dim=10,
        rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0},
    ),
}
ARCHITECTURES: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("architectures.yaml").read_text(encoding="utf-8")
)


class MemoryReader:
    """Tensors of a checkpoint that is not on disk, and how often each was read."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self.arrays = dict(arrays)
        self.reads: Counter[str] = Counter()

    @property
    def tensors(self) -> Mapping[str, TensorSpec]:
        return {name: TensorSpec(a.shape, a.dtype) for name, a in self.arrays.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        return ()

    def read(self, name: str) -> Array:
        self.reads[name] += 1
        return self.arrays[name]

    def file_of(self, name: str) -> Path:  # noqa: ARG002
        return Path("memory.safetensors")


class Sample:
    """A random model, its checkpoint in memory, and what the exporter makes of it."""

    def __init__(self, name: str, config: PretrainedConfig) -> None:
        self.name = name
        torch.manual_seed(0)
        builder = AutoModelForCausalLM if interface_of(config).cached else AutoModel
        self.model = builder.from_config(config, dtype=torch.float32).eval()
        _make_errors_visible(self.model)

    @property
    def config(self) -> PretrainedConfig:
        return self.model.config

    @cached_property
    def skeleton(self) -> Skeleton:
        return skeleton(self.config)

    @cached_property
    def template(self) -> Template:
        return template(trace(self.skeleton), self.skeleton.stack, len(self.skeleton.kept))

    def arrays(self) -> dict[str, Array]:
        """Return the weights as save_pretrained would store them: tied ones once."""
        stored = self.model.state_dict()
        return {name: stored[name].numpy() for name in self.skeleton.shapes}

    def checkpoint(self, arrays: Mapping[str, Array] | None = None) -> Checkpoint:
        reader = MemoryReader(self.arrays() if arrays is None else arrays)
        return Checkpoint("tiny", self.config, reader, cast(Any, None), None)

    def graph(
        self, dtype: ir.DataType = ir.DataType.FLOAT, checkpoint: Checkpoint | None = None
    ) -> ir.Model:
        model = stamp(self.template, self.skeleton)
        retype(model, dtype)
        bind(model, self.skeleton, checkpoint or self.checkpoint())
        return model

    def written(self, folder: Path, dtype: ir.DataType = ir.DataType.FLOAT) -> Path:
        return write_model(self.graph(dtype), folder)


def _make_errors_visible(model: torch.nn.Module) -> None:
    """Move all weights away from what they are initialized to: nearly nothing, zeros and ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
            else:
                parameter.normal_(mean=float(_is_gain(name)), std=0.3)


def _is_gain(name: str) -> bool:
    return name.endswith("weight")


@pytest.fixture(scope="session")
def sample() -> Callable[[str], Sample]:
    """Return the sample of a name in ARCHITECTURES or VARIANTS; it is traced on first use only."""
    made: dict[str, Sample] = {}

    def of(name: str) -> Sample:
        if name not in made:
            made[name] = Sample(name, _config(name))
        return made[name]

    return of


def _config(name: str) -> PretrainedConfig:
    if name in VARIANTS:
        return VARIANTS[name]
    fields = dict(ARCHITECTURES[name])
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


@pytest.fixture(scope="session")
def architectures() -> dict[str, dict[str, Any]]:
    return ARCHITECTURES


@pytest.fixture(params=list(ARCHITECTURES))
def architecture(request: pytest.FixtureRequest, sample: Callable[[str], Sample]) -> Sample:
    """Each architecture in turn, as architectures.yaml has it."""
    return sample(request.param)


@pytest.fixture(params=["llama", "mistral", "qwen2", "qwen3", *VARIANTS])
def each_sample(request: pytest.FixtureRequest, sample: Callable[[str], Sample]) -> Sample:
    """A few architectures and ways to configure them, for what does not depend on the family."""
    return sample(request.param)


@pytest.fixture(scope="session")
def castline() -> Callable[..., str]:
    """Run the command as a user does; return what it prints, on stderr where it is to fail."""

    def run(*arguments: str | Path, code: int = 0) -> str:
        command = [str(Path(sys.executable).with_name("castline")), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture(scope="session")
def session() -> Callable[[Path], onnxruntime.InferenceSession]:
    def opened(path: Path) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    return opened


Run = Callable[[dict[str, Array]], list[Array]]


@pytest.fixture(scope="session")
def worst_difference(differences: Any) -> Callable[[Sample, Run], float]:
    """Return the largest of all relative differences of a sample, with and without padding."""

    def measured(sample: Sample, run: Run) -> float:
        if not sample.skeleton.interface.cached:
            return max(_hidden_difference(sample, run, padding) for padding in (0, PADDING))
        found = [differences(sample.model, run, padding=padding) for padding in (0, PADDING)]
        return max(value for each in found for value in each.values())

    return measured


def _hidden_difference(sample: Sample, run: Run, padding: int) -> float:
    """Compare the hidden states of two texts, the second with padding on its right."""
    ids = np.random.default_rng(0).integers(3, sample.config.vocab_size, (2, PROMPT))
    mask = np.ones_like(ids)
    mask[1, PROMPT - padding :] = 0
    tokens = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids % 2}
    feed = {name: tokens[name] for name in sample.skeleton.interface.tokens}
    with torch.inference_mode():
        expected = sample.model(**{name: torch.from_numpy(a) for name, a in feed.items()})[0]
    kept = mask.astype(bool)
    return _relative(run(feed)[0][kept], expected.numpy()[kept])


@pytest.fixture(scope="session")
def differences() -> Callable[..., dict[str, float]]:
    """Return relative differences (max|d| / max|reference|) of logits and caches.

    A prompt and two further tokens are fed to the graph through `run` and to the model; the first
    of two texts is padded on the left by `padding`. Only what is no padding is compared.
    """

    def measured(
        model: torch.nn.Module,
        run: Run,
        *,
        padding: int = 0,
        dtype: Any = np.float32,
        prompt: int = PROMPT,
    ) -> dict[str, float]:
        batch = 2 if padding else 1
        ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (batch, prompt))
        mask = np.ones_like(ids)
        mask[0, :padding] = 0
        positions = np.clip(mask.cumsum(1) - 1, 0, None)
        past = _empty_cache(model, batch, dtype)
        taken = inspect.signature(model.forward).parameters
        reference_past = None
        found = {"prefill": 0.0, "decode": 0.0, "caches": 0.0}
        for step in ("prefill", "decode", "decode"):
            tokens = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
            logits, *presents = run(tokens | past)
            with torch.inference_mode():
                reference = model(
                    **{n: torch.from_numpy(value) for n, value in tokens.items() if n in taken},
                    past_key_values=reference_past,
                    use_cache=True,
                )
            kept = mask[:, -ids.shape[1] :].astype(bool)
            expected = reference.logits.numpy()
            reference_past = reference.past_key_values
            found[step] = max(found[step], _relative(logits[kept], expected[kept]))
            caches = [t for layer in reference_past.layers for t in (layer.keys, layer.values)]
            for present, cache in zip(presents, caches, strict=True):
                found["caches"] = max(found["caches"], _cache_difference(present, cache, mask))
            past = dict(zip(past, presents, strict=True))
            ids = expected[:, -1:].argmax(-1)
            mask = np.concatenate([mask, np.ones_like(ids)], axis=1)
            positions = mask.cumsum(1)[:, -1:] - 1
        return found

    return measured


def _empty_cache(model: torch.nn.Module, batch: int, dtype: Any) -> dict[str, Array]:
    with torch.inference_mode():
        one = model(input_ids=torch.zeros((1, 1), dtype=torch.long), use_cache=True)
    return {
        f"past_key_values.{i}.{slot}": np.zeros((batch, like.shape[1], 0, like.shape[3]), dtype)
        for i, layer in enumerate(one.past_key_values.layers)
        for slot, like in (("key", layer.keys), ("value", layer.values))
    }


def _cache_difference(present: Array, cache: torch.Tensor, mask: Array) -> float:
    """Compare [B, heads, length, width]; a model with a window keeps the last tokens only."""
    length = cache.shape[2]
    kept = mask[:, -length:].astype(bool)
    found, expected = present[:, :, -length:], cache.numpy()
    return _relative(found.swapaxes(1, 2)[kept], expected.swapaxes(1, 2)[kept])


def _relative(found: Array, expected: Array) -> float:
    assert not np.isnan(found).any()
    return float(np.abs(found.astype(np.float32) - expected).max() / np.abs(expected).max())
