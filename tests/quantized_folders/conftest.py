"""Write folders of a tiny Llama as quantizers write theirs, compile them, and run the result."""

from __future__ import annotations

import functools
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.compiler.targets.session import DecoderSession, cache_layout
from castline.compiler.targets.write import MODEL
from castline.errors import CastlineError
from castline.exporters import trace as tracing
from castline.exporters.skeleton import Skeleton

Array = NDArray[Any]

HIDDEN, INNER, KEYS = 64, 96, 32
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KEYS, HIDDEN),
    "self_attn.v_proj": (KEYS, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
LAYERS = 2
MODULES = {
    f"model.layers.{layer}.{module}": shape
    for layer in range(LAYERS)
    for module, shape in SHAPES.items()
}
CODES = LAYERS * sum(n * k for n, k in SHAPES.values())
TRACED: list[ir.Model] = []  # the one graph, for as long as these tests run
TOKENS = np.random.default_rng(1).integers(3, 96, (2, 12))


@dataclass(frozen=True)
class Packed:
    """One linear [N, K]: what a quantizer stores of it, and what that stands for."""

    parts: Mapping[str, torch.Tensor]
    """What follows the module's name -> what is stored, as "qweight"."""
    codes: Array
    """[N, K], columns in the order that a graph must have them in, read as the format says."""
    weight: Array
    """float32 [N, K], what the input is multiplied by after `reads`."""
    reads: Callable[[torch.Tensor], torch.Tensor] | None = None
    """What the linear does to its input [..., K] first, in float."""


Pack = Callable[[int, int, np.random.Generator], Packed]


@dataclass(frozen=True)
class QuantizedFolder:
    """A checkpoint as a quantizer wrote it."""

    path: Path
    linears: Mapping[str, Packed]
    """By their modules."""

    def change(self, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
        """Store what `change` returns in the place of a tensor, or nothing."""
        file = self.path / "model.safetensors"
        tensors = safetensors.torch.load_file(file)
        changed = change(tensors.pop(name))
        if changed is not None:
            tensors[name] = changed
        safetensors.torch.save_file(tensors, file)

    def configure(self, **fields: object) -> None:
        """Change fields of the quantization_config."""
        file = self.path / "config.json"
        config = json.loads(file.read_text())
        config["quantization_config"] |= fields
        file.write_text(json.dumps(config))

    def logits(self) -> Array:
        """Return what transformers' Llama computes with the weights that the codes stand for."""
        model = tiny_llama()
        for module, packed in self.linears.items():
            linear = model.get_submodule(module)
            linear.weight.data = torch.from_numpy(packed.weight)
            if packed.reads is not None:
                linear.register_forward_pre_hook(lambda _, given, reads=packed.reads: reads(*given))
        with torch.inference_mode():
            logits: Array = model(torch.from_numpy(TOKENS)).logits.numpy()
        return logits


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of a folder."""

    outcome: CompileOutcome

    @property
    def model(self) -> Path:
        return self.outcome.output / MODEL

    def logits(self) -> Array:
        """Return the graph's logits, its products computed in float32 where they may be."""
        proto = onnx.load(self.model, load_external_data=False)
        for node in proto.graph.node:
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
        exact = self.model.with_name("exact.onnx")
        onnx.save(proto, exact)
        if any(node.domain == "com.microsoft" for node in proto.graph.node):
            return DecoderSession.open(exact, threads=1).logits(TOKENS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Codes behind a DequantizeLinear would be multiplied with activations in int8.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(exact, options, providers=["CPUExecutionProvider"])
        layout = cache_layout(session, exact, None)
        decoder = DecoderSession(session, layout, shared_cache=False, context_length=None)
        return decoder.logits(TOKENS)

    def codes(self) -> dict[str, Array]:
        """Return what each DequantizeLinear of a weight reads, [N, K], by module."""
        stored = ir.load(self.model).graph.initializers
        ending = ".weight_quantized"
        return {
            name.removesuffix(ending): value.const_value.numpy().T
            for name, value in stored.items()
            if name.endswith(ending) and value.const_value is not None
        }

    def require(self, folder: QuantizedFolder, tolerance: float) -> None:
        """Check that all codes are carried over, and how far the logits are from the folder's."""
        assert f"all {CODES:,} stored codes are carried over unchanged" in self.outcome.notes
        if self.outcome.target == "onnx":
            found = self.codes()
            assert found.keys() == folder.linears.keys()
            for module, packed in folder.linears.items():
                np.testing.assert_array_equal(
                    found[module].astype(np.float32), packed.codes.astype(np.float32), module
                )
        expected = folder.logits()
        off = np.abs(self.logits() - expected).max() / np.abs(expected).max()
        assert off < tolerance


@functools.cache
def configuration() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        max_position_embeddings=64,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )


def tiny_llama() -> LlamaForCausalLM:
    """Return a model whose norms, embedding and head matter, float16 numbers all."""
    model = LlamaForCausalLM(configuration()).eval()
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        whole = (
            1 + 0.3 * noise if parameter.ndim == 1 else noise * (1.0 if "embed" in name else 0.1)
        )
        parameter.data = whole.half().float()
    return model


@pytest.fixture(scope="session")
def packed_linear() -> type[Packed]:
    return Packed


@pytest.fixture(scope="session")
def weight_of() -> Callable[..., Array]:
    """Return the weight [N, K] of codes, one column after the other."""

    def dequantized(codes: Array, scales: Array, zeros: Array | None = None) -> Array:
        weight = np.empty(codes.shape, np.float32)
        for k in range(codes.shape[1]):
            group = k * scales.shape[1] // codes.shape[1]
            shifted = codes[:, k].astype(np.float32)
            if zeros is not None:
                shifted = shifted - zeros[:, group].astype(np.float32)
            weight[:, k] = shifted * scales[:, group].astype(np.float32)
        return weight

    return dequantized


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """Trace the tiny Llama once and hand out copies: a trace takes seconds."""
    real = tracing.trace

    @functools.wraps(real)
    def trace(skeleton: Skeleton) -> ir.Model:
        if not TRACED:
            TRACED.append(real(skeleton))
        return TRACED[0].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "trace", trace)
        yield


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., QuantizedFolder]:
    """Write a folder whose linears are packed one by one; `files` are more configurations."""

    def write(
        pack: Pack,
        quantization: Mapping[str, Any] | None,
        files: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> QuantizedFolder:
        linears = {
            module: pack(n, k, np.random.default_rng(zlib.crc32(module.encode())))
            for module, (n, k) in MODULES.items()
        }
        tensors = {
            name: tensor.half()
            for name, tensor in tiny_llama().state_dict().items()
            if name.removesuffix(".weight") not in linears
        }
        for module, packed in linears.items():
            tensors |= {f"{module}.{part}": tensor for part, tensor in packed.parts.items()}
        path = tmp_path / "folder"
        configuration().save_pretrained(path)
        config = json.loads((path / "config.json").read_text())
        if quantization is not None:
            config["quantization_config"] = quantization
        for name, fields in ({"config.json": config} | dict(files or {})).items():
            (path / name).write_text(json.dumps(fields))
        safetensors.torch.save_file(tensors, path / "model.safetensors")
        return QuantizedFolder(path, linears)

    return write


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Compiled]:
    """Compile a folder as it is stored, without a gate: the vocabulary has no words."""

    def compile_folder(folder: QuantizedFolder, **options: Any) -> Compiled:
        asked = {"recipe": load_recipe("as-stored"), "target": "onnx", "gate": False} | options
        return Compiled(compile_model(str(folder.path), tmp_path / "out", **asked))

    return compile_folder


@pytest.fixture
def refused(tmp_path: Path, compiled: Callable[..., Compiled]) -> Callable[..., None]:
    """Check that a folder ends in an error of ours with certain words, and nothing is written."""

    def check(folder: QuantizedFolder, words: str, **options: Any) -> None:
        with pytest.raises(CastlineError, match=words):
            compiled(folder, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["folder"]

    return check
