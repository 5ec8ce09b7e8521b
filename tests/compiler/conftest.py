"""Build a tiny decoder of every architecture, traced once, and run its graphs."""

from __future__ import annotations

import functools
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import safetensors.numpy
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from castline.compiler.pipeline import compile_model
from castline.compiler.recipes.load import load_recipe
from castline.compiler.recipes.recipe import Recipe
from castline.compiler.report.outcome import CompileOutcome
from castline.compiler.targets.session import DecoderSession, cache_layout
from castline.compiler.targets.write import write_model
from castline.exporters import trace as tracing
from castline.exporters.checkpoint import Checkpoint, open_checkpoint
from castline.exporters.export import export
from castline.exporters.skeleton import Skeleton
from castline.progress import Progress

VOCABULARY = 160
CONTEXT = 512
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "tied": LlamaConfig(**SIZES | {"tie_word_embeddings": True, "intermediate_size": 100}),
    "mistral": MistralConfig(**SIZES, head_dim=32, sliding_window=6),
    "qwen2": Qwen2Config(**SIZES),
    "odd": LlamaConfig(**SIZES, head_dim=24),
    "qwen3": Qwen3Config(**SIZES, head_dim=32),
}

Step = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Tiny:
    """A checkpoint in a folder, and its float graph, written."""

    checkpoint: Checkpoint
    graph: Path

    def model(self) -> ir.Model:
        """Return the float graph anew, with its weights left in the file."""
        return ir.load(self.graph)


@pytest.fixture(scope="session")
def traced_once() -> Iterator[None]:
    """Trace every configuration once and hand out copies: a trace takes seconds."""
    traced: dict[str, ir.Model] = {}
    real = tracing.trace

    @functools.wraps(real)
    def trace(skeleton: Skeleton) -> ir.Model:
        key = skeleton.model.config.to_json_string()
        if key not in traced:
            traced[key] = real(skeleton)
        return traced[key].clone()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "trace", trace)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, traced_once: None) -> Callable[[str], Tiny]:  # noqa: ARG001
    """Return the tiny decoder of an architecture, by its name in CONFIGS."""
    made: dict[str, Tiny] = {}

    def of(name: str) -> Tiny:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            save_checkpoint(CONFIGS[name], folder / "checkpoint")
            checkpoint = open_checkpoint(folder / "checkpoint")
            made[name] = Tiny(checkpoint, write_model(export(checkpoint).model, folder))
        return made[name]

    return of


@pytest.fixture(scope="session")
def source(tiny: Callable[[str], Tiny]) -> str:
    """Return the folder of the tiny Llama's checkpoint."""
    return str(tiny("llama").checkpoint.source)


@pytest.fixture(scope="session")
def fake_gpu() -> ModuleType:
    """Return what fake_cuda.py and fake_tensorrt.py beside this file have, as one module."""
    both = ModuleType("fake_gpu")
    for name in ("fake_cuda", "fake_tensorrt"):
        path = Path(__file__).with_name(f"{name}.py")
        spec = importlib.util.spec_from_file_location(f"castline_{name}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        vars(both).update(vars(module))
    return both


@pytest.fixture(scope="session")
def evaluation_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file of words that the tiny decoders know, just long enough to judge by."""
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(" ".join(f"w{i * i % 157}" for i in range(8 * 512)))
    return str(file)


def save_checkpoint(config: PretrainedConfig, folder: Path) -> None:
    """Write a model whose every weight matters, with a tokenizer of words w0, w1, ..."""
    model = AutoModelForCausalLM.from_config(config)
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=random)
        if parameter.ndim == 2:
            parameter.data = noise * (1.0 if "embed" in name else parameter.shape[1] ** -0.5)
        else:
            parameter.data = 0.3 * noise + ("norm" in name)
    model.save_pretrained(folder)
    words = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Return a tiny BERT, as one trained for masked language modelling is stored."""
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder / "checkpoint")
    checkpoint = open_checkpoint(folder / "checkpoint")
    return Tiny(checkpoint, write_model(export(checkpoint).model, folder))


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a file of sentences of words that the tiny encoder knows."""
    file = tmp_path_factory.mktemp("sentences") / "text.txt"
    words = [f"w{i * i % 151}" for i in range(1200)]
    file.write_text(" ".join(f"{w}." if i % 9 == 0 else w for i, w in enumerate(words)))
    return str(file)


def save_encoder(folder: Path) -> None:
    """Write a BERT with the head of a masked language model, and sentence-transformers' files."""
    sizes = {name: size for name, size in SIZES.items() if not name.endswith("_token_id")}
    config = BertConfig(**sizes | {"max_position_embeddings": 64, "tie_word_embeddings": True})
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(config)
    for name, parameter in model.named_parameters():
        gain = float("LayerNorm.weight" in name)
        parameter.data = gain + torch.randn(parameter.shape) * parameter.shape[-1] ** -0.5
    model.save_pretrained(folder)
    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", ".")
    words = [*special, *(f"w{i}" for i in range(VOCABULARY - len(special)))]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    ).save_pretrained(folder)
    modules = [{"path": ""}, {"path": "1_Pooling"}, {"path": "2_Normalize"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')


@pytest.fixture
def written(tmp_path: Path) -> Callable[[ir.Model], Path]:
    """Write a model into a folder of its own, check it as ONNX does, and return the file."""

    def write(model: ir.Model) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        path = write_model(model, folder)
        # Functions of com.microsoft have no schema in ONNX itself, so their shapes stay unknown.
        onnx.checker.check_model(path, full_check=True)
        return path

    return write


@pytest.fixture(scope="session")
def run_steps() -> Callable[..., list[np.ndarray]]:
    """Run the steps of a decoding, tokens and mask each, and return the logits that count."""

    def run(path: Path, steps: Sequence[Step], *, shared: bool = False) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # By default codes behind a DequantizeLinear are multiplied with activations in int8.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        loaded = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        layout = cache_layout(loaded, path, None)
        session = DecoderSession(loaded, layout, shared_cache=shared, context_length=None)
        capacity = sum(tokens.shape[1] for tokens, _ in steps)
        decoding = session.begin(len(steps[0][0]), capacity + (5 if shared else 0))
        found = []
        for tokens, mask in steps:
            logits = decoding.step(tokens, mask)
            found.append(logits if mask is None else logits[mask.astype(bool)])
        return found

    return run


@pytest.fixture(scope="session")
def scenarios() -> dict[str, list[Step]]:
    """Return what a decoder must do right: prompts, decoding, padding, prompts in pieces."""
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (2, 24))
    left = np.array([[0, 0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]])
    right = np.ascontiguousarray(left[:, ::-1])

    def after(first: Step, count: int, start: int) -> list[Step]:
        rows = len(first[0])
        return [first, *((ids[:rows, i : i + 1], None) for i in range(start, start + count))]

    return {
        "prefill": [(ids[:1, :9], None)],
        "decode": after((ids[:, :7], None), 8, 7),
        "left padding": after((ids[:, :8], left), 3, 8),
        "right padding": after((ids[:, :8], right), 3, 8),
        "pieces": [(ids[:1, :5], None), (ids[:1, 5:9], None), (ids[:1, 9:12], None)],
        "padded pieces": [(ids[:1, :8], left[:1]), (ids[:1, 8:11], None), (ids[:1, 11:12], None)],
        "one token": after((ids[:1, :1], None), 2, 1),
    }


# Presets may change; weights drawn at random lose more to 4 bits than learned ones do.
W4 = ("weights={bits: 4, group_size: 128, symmetric: false}", "head=keep", "embedding=keep")
WIDE = (*W4, "gate.kl_divergence=5", "gate.perplexity_ratio=5", "gate.top1_agreement=0.01")


class InterruptedAt:
    """Progress of a run that is interrupted when the stage of that title begins."""

    def __init__(self, title: str) -> None:
        self.title = title

    @contextmanager
    def stage(
        self, title: str, _total: float | None = None, _unit: str = "", **_rest: object
    ) -> Iterator[Callable[[float], None]]:
        if title == self.title:
            raise KeyboardInterrupt
        yield lambda _amount: None


@pytest.fixture(scope="session")
def published(
    source: str, evaluation_text: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CompileOutcome, Path]:
    output = tmp_path_factory.mktemp("published") / "out"
    outcome = compile_model(
        source,
        output,
        recipe=load_recipe("w4a16-rtn", WIDE),
        target="onnxruntime",
        evaluation_text=evaluation_text,
        threads=1,
    )
    return outcome, output


def compile_ungated(source: str, output: Path, recipe: Recipe | None = None, **options: Any) -> Any:
    options = {"target": "onnx", "gate": False, **options}
    return compile_model(source, output, recipe=recipe or load_recipe("w4a16-rtn", W4), **options)


def changed_copy(source: str, folder: Path, name: str, change: Callable[[np.ndarray], None]) -> str:
    """Copy a checkpoint with one tensor changed in place."""
    shutil.copytree(source, folder)
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    tensors[name] = tensors[name].copy()
    change(tensors[name])
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture(scope="session")
def compiled() -> Callable[..., Any]:
    """Compile for the `onnx` target without a gate, unless told otherwise."""
    return compile_ungated


@pytest.fixture(scope="session")
def copy_with() -> Callable[..., str]:
    """Copy a checkpoint with one tensor changed in place, and return its folder."""
    return changed_copy


@pytest.fixture(scope="session")
def interrupted_at() -> type[InterruptedAt]:
    """Return the progress of a run that is interrupted when a stage begins."""
    return InterruptedAt


@pytest.fixture(scope="session")
def w4() -> tuple[str, ...]:
    """Return what makes a 4-bit recipe whatever the presets are."""
    return W4


@pytest.fixture(scope="session")
def wide() -> tuple[str, ...]:
    """Return the same with a gate that random weights pass."""
    return WIDE


class StopsAt:
    """Progress that ends the run when so much is done, as Ctrl-C does."""

    def __init__(self, amount: float) -> None:
        self._amount = amount

    @contextmanager
    def stage(
        self,
        title: str,  # noqa: ARG002 - the protocol's signature
        total: float | None = None,  # noqa: ARG002
        unit: str = "",  # noqa: ARG002
    ) -> Iterator[Callable[[float], None]]:
        done = 0.0

        def advance(more: float) -> None:
            nonlocal done
            done += more
            if done == self._amount:
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="session")
def stopping_at() -> Callable[[float], Progress]:
    """Return what makes a progress that stops its run."""
    return StopsAt
