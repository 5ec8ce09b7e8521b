from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from castline.cli.folds import consumer_names, show_folds, total, within_layer
from castline.compiler.report.fold_table import FoldRow


def row(reason: str | None = None, layers: tuple[int, ...] = (0, 1)) -> FoldRow:
    path = "model.layers.*"
    return FoldRow(
        layers=layers,
        site=f"{path}/norm/Mul",
        producer=f"{path}.norm.weight",
        kind="norm gain",
        consumers=(f"{path}.attn.q.weight", f"{path}.attn.k.weight"),
        channels=8,
        scales=8,
        reason=reason,
    )


def test_shows_site_producer_consumers_verdict_and_reason(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show_folds([row(), row("the residual Add reads it", layers=(2,))])
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    shared = ["norm/Mul", "norm.weight", "attn.q, k"]
    assert cells[0] == ["layers", "site", "producer", "consumers", "verdict", "reason"]
    assert cells[1] == ["0-1", *shared, "foldable: norm gain"]
    assert cells[2] == ["2", *shared, "declined", "the residual Add reads it"]
    assert cells[3] == ["2 sites foldable, 1 declined"]


def test_names_stay_whole_outside_their_layer() -> None:
    assert within_layer("lm_head.weight") == "lm_head.weight"
    assert consumer_names(["a.q.weight", "b.k.weight"]) == "a.q, b.k"


def test_a_site_outside_the_layers_counts_once() -> None:
    assert total([row(layers=())]) == "1 site foldable, 0 declined"


def test_inspect_follows_the_folds_of_a_checkpoint(run: Any, tmp_path: Path) -> None:
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=32,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    result = run("inspect", tmp_path, "--folds", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [(len(each["layers"]), each["channels"], each["scales"]) for each in rows[:4]] == [
        (2, 16, 16),
        (2, 16, 8),
        (2, 16, 16),
        (2, 24, 24),
    ]


def test_inspect_says_what_a_checkpoint_lacks(run: Any, tmp_path: Path) -> None:
    result = run("inspect", tmp_path, "--folds", "--quiet")
    assert result.exit_code == 1
    assert "config.json" in result.stderr
