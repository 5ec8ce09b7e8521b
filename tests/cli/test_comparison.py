from __future__ import annotations

from castline.cli.comparison import comparison_lines


def test_says_each_figure_beside_the_original() -> None:
    report = {
        "language": {"perplexity": 57.51, "perplexity_original": 42.48},
        "bytes": 86_400_000,
        "original_bytes": 538_000_000,
        "speed": {"prefill": 1205.0, "decode": 239.0},
        "original_speed": {"prefill": 1201.0, "decode": 70.2},
    }
    assert list(comparison_lines(report)) == [
        "perplexity: 57.5, original 42.5",
        "size: 86.4 MB, original in float32 538 MB",
        "prefill, tokens/s: 1,205, original 1,201",
        "decode, tokens/s: 239, original 70.2",
    ]


def test_leaves_out_what_was_not_measured() -> None:
    report = {"language": None, "bytes": 5, "original_bytes": "?", "speed": {"prefill": 1.0}}
    assert list(comparison_lines(report)) == []
    assert list(comparison_lines({})) == []
