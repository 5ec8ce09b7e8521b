"""castline generate: text out of an output folder."""

# ruff: noqa: PLC0415 - onnxruntime takes time that --help does not have.

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from castline.cli.failures import Failures
from castline.cli.options import AsJson, Debug, Quiet, Threads, utf8_alone
from castline.compiler.report.numbers import significant
from castline.errors import CastlineError

if TYPE_CHECKING:
    from castline.cli.answer import Clock

STDIN = "-"


def generate(
    output: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="A folder that compile or export wrote, or an .onnx or .engine file in one.",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT",
            callback=utf8_alone,
            help="What to say to the model; - reads it from standard input.",
            show_default=False,
        ),
    ],
    *,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, help="Stop after so many tokens at the latest.")
    ] = 128,
    temperature: Annotated[
        float, typer.Option(min=0, help="0: the likeliest token each time. Higher: more varied.")
    ] = 0.0,
    top_p: Annotated[
        float, typer.Option(help="Draw from the fewest tokens with this much probability.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Draw from so many of the likeliest tokens.")
    ] = None,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: tokens that were there already become less likely.")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same text.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without chat template.")
    ] = False,
    runtime: Annotated[
        Literal["auto", "onnxruntime", "genai", "engine"],
        typer.Option(
            help="What runs the model. auto: the engine where there is one; onnxruntime-genai for "
            "a folder made for one of its GPU providers; else ONNX Runtime."
        ),
    ] = "auto",
    cuda_graph: Annotated[
        bool,
        typer.Option(
            help="Replay the decoding steps of an engine whose cache has a fixed capacity."
        ),
    ] = True,
    threads: Threads = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Generate text with a compiled model, streamed to stdout as it comes.

    Afterwards stderr tells the speed, and how this model compares with its original. The answer
    ends at the model's stop tokens, at --max-new-tokens, or when its context is full.

    **Example:** castline generate build/smollm2 "Why is ice light?" --temperature 0.7 --seed 1
    """
    with Failures(debug=debug):
        from castline.cli.answer import Clock, text_pieces
        from castline.cli.chat import speaker
        from castline.compiler.runner import open_runner
        from castline.compiler.targets.sampling import Sampling

        sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        folder = output if output.is_dir() else output.parent
        _require_present(output)
        speaking = speaker(folder)
        said = _stdin() if prompt == STDIN else prompt
        tokens = speaking.tokens(said, raw=raw)
        _require_tokens(tokens)
        runner = open_runner(output, runtime, threads=threads, cuda_graph=cuda_graph)
        import numpy as np

        clock = Clock(len(tokens))
        answer = runner.generate(
            np.array([tokens], dtype=np.int64),
            max_new_tokens=max_new_tokens,
            sampling=sampling,
            stop=speaking.stop,
        )
        pieces = text_pieces(speaking.tokenizer, clock.timed(answer))
        if as_json:
            document = {"prompt": said, "text": "".join(pieces), **clock.to_json()}
            typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
            return
        for piece in pieces:
            typer.echo(piece, nl=False)
        typer.echo()
        if not quiet:
            _show_figures(folder, clock)


def _require_present(output: Path) -> None:
    if not output.exists():
        raise CastlineError(
            f"{output} does not exist. Give a folder that `castline compile` or `castline export` "
            "wrote."
        )


def _stdin() -> str:
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise CastlineError(f"standard input is not UTF-8 text: {error}.") from error


def _require_tokens(tokens: list[int]) -> None:
    if not tokens:
        raise CastlineError("the prompt is empty: there is nothing to continue. Give a PROMPT.")


def _show_figures(folder: Path, clock: Clock) -> None:
    from castline.cli.comparison import comparison_lines
    from castline.compiler.report.record import read_report

    prefill, decode = _rate(clock.prefill), _rate(clock.decode)
    typer.echo(
        f"\ntokens: {clock.new_tokens} after a prompt of {clock.prompt_tokens}; "
        f"prefill {prefill}, decode {decode}",
        err=True,
    )
    report: Mapping[str, object] | None = read_report(folder)
    for line in comparison_lines(report or {}):
        typer.echo(line, err=True)


def _rate(rate: float | None) -> str:
    return "too short to tell" if rate is None else f"{significant(rate)} tokens/s"
