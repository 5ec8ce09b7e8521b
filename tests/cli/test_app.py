from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

import castline
from castline.cli import app as entry
from castline.cli.app import main

COMMANDS = ("compile", "export", "generate", "check", "inspect", "recipes", "doctor")
HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "onnx_ir", "numpy", "pydantic", "jinja2")


def test_help_names_every_command_and_the_exit_codes(run: Any) -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert all(command in result.stdout for command in COMMANDS)
    assert "3 built, but too far from the original" in " ".join(result.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches_with_an_example(run: Any, command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert f"Example: castline {command}" in text
    assert "Exit codes:" in text


def test_shows_the_version(run: Any) -> None:
    assert run("--version").stdout == f"castline {castline.__version__}\n"


def test_wrong_usage_is_exit_code_2_and_names_the_nearest(run: Any) -> None:
    assert run("compil").exit_code == 2
    result = run("compile", "m", "-o", "o", "--recip", "float")
    assert result.exit_code == 2
    assert "--recipe" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "hushed"),
    [
        (["generate", "o", "hi"], True),
        (["generate", "o", "hi", "--debug"], False),
        (["generate", "o", "what does --debug do?"], True),
        (["generate", "o", "--", "--debug"], True),
    ],
)
def test_debug_is_an_option_and_no_word_of_a_prompt(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], hushed: bool
) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    done: list[bool] = []
    monkeypatch.setattr(entry, "_hush_libraries", lambda: done.append(True))
    monkeypatch.setattr(entry, "app", lambda: None)
    monkeypatch.setattr(sys, "argv", ["castline", *arguments])
    main()
    assert bool(done) is hushed
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1", "in either case"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from castline.cli.app import main\n"
        "sys.argv = ['castline', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
