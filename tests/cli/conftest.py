"""A pipeline that compiles nothing, a tokenizer of bytes, and a way to run the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner, Result

from castline.cli.app import app
from castline.compiler.package.manifest import write_manifest
from castline.compiler.report.outcome import CheckOutcome, CompileOutcome, ExportOutcome


@dataclass(frozen=True)
class Language:
    perplexity_original: float = 42.48
    perplexity: float = 57.5
    kl_divergence: float = 0.2512
    top1_agreement: float = 0.745
    tokens: int = 512


@dataclass(frozen=True)
class Verdict:
    name: str
    value: float | None
    limit: float
    at_most: bool
    passed: bool


@dataclass(frozen=True)
class Speed:
    prefill: float
    decode: float
    threads: int = 2


PASSED = Verdict("kl divergence", 0.2512, 0.5, True, True)
FAILED = Verdict("top1 agreement", 0.745, 0.9, False, False)
COMPILED = CompileOutcome(
    language=Language(),
    tensors=None,
    verdicts=(PASSED,),
    output=Path("out"),
    source="model.gguf",
    source_path=Path("/models/model.gguf"),
    recipe="w4a16-rtn",
    target="onnxruntime",
    original_bytes=538_000_000,
    bytes=86_400_000,
    original_speed=Speed(1201.0, 70.25),
    speed=Speed(1205.0, 239.0),
    bits_per_weight=4.625,
    seconds=12.5,
    notes=("group 128 does not divide K=576: 64 used for 180 linears",),
    not_executed=("the engine: this machine has no GPU",),
)


class Pipeline(ModuleType):
    """Stands in for castline.compiler.pipeline and castline.compiler.recheck."""

    def __init__(self) -> None:
        super().__init__("castline.compiler.pipeline")
        self.asked: dict[str, Any] = {}
        self.failure: BaseException | None = None
        self.verdicts: tuple[Verdict, ...] = (PASSED,)
        self.not_executed: tuple[str, ...] = ()

    def export_model(self, source: str, output: Path, **options: Any) -> ExportOutcome:
        self._note(source=source, output=output, **options)
        return ExportOutcome(
            output=output,
            source=source,
            source_path=None,
            architecture="LlamaForCausalLM",
            layers=30,
            dtype="float32",
            nodes=1203,
            bytes=538_000_000,
            seconds=9.5,
            notes=("the head is tied to the embedding",),
        )

    def compile_model(self, source: str, output: Path, **options: Any) -> CompileOutcome:
        self._note(source=source, output=output, **options)
        return replace(COMPILED, verdicts=self.verdicts)

    def check_output(self, output: Path, **options: Any) -> CheckOutcome:
        self._note(output=output, **options)
        return CheckOutcome(
            output=output,
            against="model.gguf",
            language=Language(),
            tensors=None,
            verdicts=self.verdicts,
            seconds=3.0,
            not_executed=self.not_executed,
        )

    def _note(self, **asked: Any) -> None:
        self.asked = asked
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    stand_in = Pipeline()
    for name in ("pipeline", "recheck"):
        monkeypatch.setitem(sys.modules, f"castline.compiler.{name}", stand_in)
    return stand_in


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command line in this process, as wide as the longest line."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def compiled() -> CompileOutcome:
    return COMPILED


@pytest.fixture
def failed() -> Verdict:
    return FAILED


@pytest.fixture
def byte_tokenizer() -> Tokenizer:
    """Every byte is a token; 256 ends the text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    codes = {tuple(_bytes_of(letter)): letter for letter in letters}
    vocabulary = {codes[(value,)]: value for value in range(256)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def _bytes_of(letter: str) -> bytes:
    """Which byte a letter of the byte-level alphabet stands for: GPT-2's table."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [value for value in range(256) if value not in shown]
    code = ord(letter)
    return bytes([code if code in shown else hidden[code - 256]])


@pytest.fixture
def packable(tmp_path: Path) -> Path:
    """Return the smallest folder that can be packed: a graph and its manifest."""
    made = tmp_path / "tiny"
    made.mkdir()
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    out = helper.make_tensor_value_info("hidden", TensorProto.INT64, ["batch", "sequence"])
    node = helper.make_node("Identity", ["input_ids"], ["hidden"])
    onnx.save(helper.make_model(helper.make_graph([node], "g", [ids], [out])), made / "model.onnx")
    write_manifest(made, {"source": "org/tiny", "target": "onnxruntime", "build": {}})
    return made
