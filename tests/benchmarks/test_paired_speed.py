"""Check that folders are compared with each other and not with the machine's load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def test_neither_load_nor_order_counts() -> None:
    from paired_speed import ratios

    # The machine is half as fast in the second pair, and what is loaded last twice as fast.
    runs = [
        {
            "side": side,
            "turn": turn,
            "pair": pair,
            "loaded_first": first,
            "prefill": prefill / (pair + 1) * (1 if side == first else 2),
            "decode": decode / (pair + 1) * (1 if side == first else 2),
        }
        for turn, first in enumerate(("castline", "builder"))
        for pair in (0, 1)
        for side, prefill, decode in (("castline", 300.0, 50.0), ("builder", 200.0, 100.0))
    ]
    assert ratios(runs, "castline", "builder") == {"prefill": 1.5, "decode": 0.5}


def test_each_side_is_loaded_first_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import paired_speed

    def measured(folders: list[Path], *_: object) -> list[list[dict[str, float]]]:
        return [[{"prefill": len(each.name), "decode": 1.0}] for each in folders]

    monkeypatch.setattr(paired_speed, "_measure", measured)
    folders = {"one": tmp_path / "a", "other": tmp_path / "bb"}
    runs = paired_speed.paired_runs(folders, (8, 8), turns=2, repetitions=1)
    assert [(run["side"], run["loaded_first"], run["prefill"]) for run in runs] == [
        ("one", "one", 1),
        ("other", "one", 2),
        ("other", "other", 2),
        ("one", "other", 1),
    ]


def test_threads_are_written_beside_other_options(tmp_path: Path) -> None:
    from paired_speed import use_threads

    path = tmp_path / "genai_config.json"
    path.write_text(json.dumps({"model": {"decoder": {"session_options": {"log_id": "x"}}}}))
    use_threads(tmp_path, 2)
    options = json.loads(path.read_text())["model"]["decoder"]["session_options"]
    assert options == {"log_id": "x", "intra_op_num_threads": 2}
