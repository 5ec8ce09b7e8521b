"""The entry of the command line: `castline COMMAND ...`."""

from __future__ import annotations

import gc
import itertools
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

import castline
from castline.cli.build import build
from castline.cli.check import check
from castline.cli.compile import compile_checkpoint
from castline.cli.doctor import doctor
from castline.cli.embed import embed
from castline.cli.export import export
from castline.cli.generate import generate
from castline.cli.inspect import inspect
from castline.cli.package import package
from castline.cli.plugins import plugins
from castline.cli.quantize import quantize
from castline.cli.recipes import recipes
from castline.cli.sensitivity import sensitivity
from castline.cli.verify import verify

EXIT_CODES = (
    "Exit codes: 0 done; 1 an error, in words on stderr; 2 wrong usage; 3 built, but too far from "
    "the original; 130 interrupted."
)

COLLECT_SELDOM = 100_000, 50, 50
"""When Python looks for cycles: all that torch holds takes seconds of a command at its own pace."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # Failures shows errors, and all of them in one way
    rich_markup_mode="markdown",
    context_settings={
        "help_option_names": ["-h", "--help"],
        # --max_new_tokens is what people of this field often type for --max-new-tokens.
        "token_normalize_func": lambda name: name.replace("_", "-"),
    },
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"castline {castline.__version__}")
        raise typer.Exit


@app.callback(epilog=EXIT_CODES)
def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Compile Hugging Face checkpoints into quantized, checked models that run.

    **Begin with:** castline compile MODEL -o OUT, then castline generate OUT "Hello!"
    """


for _name, _command in (
    ("compile", compile_checkpoint),
    ("quantize", quantize),
    ("sensitivity", sensitivity),
    ("export", export),
    ("build", build),
    ("generate", generate),
    ("embed", embed),
    ("check", check),
    ("verify", verify),
    ("package", package),
    ("inspect", inspect),
    ("recipes", recipes),
    ("doctor", doctor),
):
    app.command(_name, epilog=EXIT_CODES, no_args_is_help=_name not in ("recipes", "doctor"))(
        _command
    )
app.add_typer(plugins, name="plugins", epilog=EXIT_CODES)


def main() -> None:
    """Run the command line with the process's arguments; it exits, and does not return."""
    gc.set_threshold(*COLLECT_SELDOM)
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # nobody is told what is compiled
    if not _asks_for_debug(sys.argv[1:]):
        _hush_libraries()
    app()


def _asks_for_debug(arguments: Sequence[str]) -> bool:
    """Whether --debug is among the options; after a bare -- all are texts, such as a prompt."""
    options = itertools.takewhile(lambda argument: argument != "--", arguments)
    return "--debug" in options


def _hush_libraries() -> None:
    """Keep the libraries' warnings and bars from stderr: what matters, Castline says itself."""
    warnings.simplefilter("ignore")
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("HF_DATASETS_DISABLE_PROGRESS_BARS", "1"),
        ("TOKENIZERS_PARALLELISM", "false"),
    ):
        os.environ.setdefault(name, value)
