"""Check what the benchmark of the kernels says without a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

RUN = {"scheme": "W4A16", "k": 4096, "n": 4096, "m": 1}
TIMES = {"cublas_us": 10.0, "product_us": 2.5, "whole_us": 4.0, "goal": 2.2, "of_ceiling": 0.456}


def test_a_row_has_the_ratio_its_goal_and_the_part_of_the_ceiling() -> None:
    from gemm import shown

    lines = shown([{**RUN, **TIMES, "ratio": 2.5}]).splitlines()
    figures = ["10.00", "2.50", "4.00", "2.50", "2.20", "46", "%"]
    assert lines[1].split() == ["W4A16", "4096", "4096", "1", *figures]


def test_the_table_ends_with_geometric_means_over_shapes() -> None:
    from gemm import shown

    runs = [{**RUN, **TIMES, "ratio": 2.0}, {**RUN, **TIMES, "n": 12288, "ratio": 8.0}]
    assert shown(runs).splitlines()[-1].split() == ["W4A16", "all", "all", "1", "4.00"]


def test_a_run_without_a_gpu_says_that_nothing_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gemm
    import record

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(gemm, "Kernels", lambda _: Library())
    monkeypatch.setattr(gemm, "emulated_checks", lambda _: ([{"scheme": "W4A16"}], []))
    gemm.main(["--emulated", "--library", str(tmp_path)])
    kept = json.loads(next(tmp_path.iterdir()).read_text())
    assert kept["gpu"] == "unmeasured: no GPU"
    assert {run["left_out"] for run in kept["runs"]} == {"unmeasured: no GPU"}
    assert not any("ratio" in run for run in kept["runs"])
    assert "unmeasured: no GPU; 1 cases checked apart, 0 wrong" in capsys.readouterr().out


def test_a_wrong_result_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gemm
    import record

    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(gemm, "Kernels", lambda _: Library())
    monkeypatch.setattr(gemm, "emulated_checks", lambda _: ([], ["tactic 1: wrong"]))
    with pytest.raises(SystemExit):
        gemm.main(["--emulated", "--library", str(tmp_path)])


def test_without_a_gpu_the_way_to_check_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gemm

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gemm.main([])
    assert "--emulated checks the kernels" in capsys.readouterr().err


class Library:
    """What is kept of a library of kernels."""

    build_info = {"layout_version": 1}  # noqa: RUF012  (a constant of a test)
