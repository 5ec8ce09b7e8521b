"""Compile a quantized folder on the command line: as stored, or anew where that is allowed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from castline.cli.app import app

Command = Callable[..., Result]
CODES = 61_440
FIELDS = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "strategy": "channel"}}
    },
}


@pytest.fixture
def command(written: Any, packed_linear: Any, weight_of: Any, tmp_path: Path) -> Command:
    """Compile a folder of INT8 weights, each a number from -100 to 100."""

    def packed(n: int, k: int, random: np.random.Generator) -> Any:
        codes = random.integers(-100, 101, (n, k), np.int8)
        scales = np.full((n, 1), 2.0**-10, np.float16)
        parts = {"weight": torch.from_numpy(codes), "weight_scale": torch.from_numpy(scales)}
        return packed_linear(parts, codes, weight_of(codes, scales))

    folder = written(packed, FIELDS)

    def run(*options: str) -> Result:
        asked = ["compile", str(folder.path), "-o", str(tmp_path / "out"), "--no-gate", *options]
        return CliRunner().invoke(app, asked)

    return run


def test_without_a_recipe_it_is_compiled_as_it_is_stored(command: Command, tmp_path: Path) -> None:
    result = command()
    assert result.exit_code == 0, result.output
    assert ", as-stored, onnxruntime" in result.stdout
    assert f"all {CODES:,} stored codes are carried over unchanged" in result.stdout
    assert json.loads((tmp_path / "out" / "report.json").read_text())["recipe"] == "as-stored"


def test_another_recipe_needs_leave_to_change_codes(command: Command, tmp_path: Path) -> None:
    result = command("--recipe", "w4a16-rtn")
    assert result.exit_code == 1
    said = " ".join(result.stderr.split())
    assert f"of {CODES:,} stored codes" in said
    assert "--recipe as-stored carries over what is stored" in said
    assert "--allow-lossy compiles all the same, and the report says what it cost." in said
    assert not (tmp_path / "out").exists()


def test_the_report_says_what_was_changed_and_what_it_cost(
    command: Command, tmp_path: Path
) -> None:
    result = command("--recipe", "w4a16-rtn", "--allow-lossy")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    stored = report["stored_codes"]
    # Numbers from -100 to 100 by steps of 200 / 15: a few of them are multiples.
    assert 0.8 * CODES < stored["changed"] < CODES
    # By rounding alone 200^2 / 12 to (200 / 15)^2 / 12, which is 23.5 dB.
    assert stored["sqnr_db"] == pytest.approx(23.5, abs=0.5)
    words = f"of {CODES:,} stored codes {stored['changed']:,} change"
    cost = f"(signal to noise {stored['sqnr_db']:.1f} dB)"
    for text in (result.stdout, " ".join(report["notes"]), html(tmp_path / "out")):
        assert words in text
        assert cost in text


def html(folder: Path) -> str:
    return (folder / "report.html").read_text()
