"""Say in three lines how a compiled model compares with its original, from its report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from castline.compiler.report.numbers import significant, size


def comparison_lines(report: Mapping[str, object]) -> Iterator[str]:
    """Yield a line for each figure that the report has: perplexity, size, speed."""
    language = _section(report, "language")
    yield from _line("perplexity", language, "perplexity", language, "perplexity_original")
    yield from _line("size", report, "bytes", report, "original_bytes")
    speed, original = _section(report, "speed"), _section(report, "original_speed")
    yield from _line("prefill, tokens/s", speed, "prefill", original, "prefill")
    yield from _line("decode, tokens/s", speed, "decode", original, "decode")


def _line(
    title: str,
    here: Mapping[str, object],
    field: str,
    there: Mapping[str, object],
    original_field: str,
) -> Iterator[str]:
    result, original = here.get(field), there.get(original_field)
    if isinstance(result, int | float) and isinstance(original, int | float):
        if title == "size":
            yield f"size: {size(result)}, original in float32 {size(original)}"
        else:
            yield f"{title}: {significant(result)}, original {significant(original)}"


def _section(report: Mapping[str, object], name: str) -> Mapping[str, object]:
    section = report.get(name)
    return section if isinstance(section, Mapping) else {}
