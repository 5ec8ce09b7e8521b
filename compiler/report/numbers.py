"""Write numbers for people."""

from __future__ import annotations

import math


def size(amount: float) -> str:
    """A number of bytes: 912 B, 13.4 kB, 538 MB, 1.21 GB; powers of 1000, as disks count."""
    value = float(amount)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{significant(value)} {unit}"


def significant(value: float, digits: int = 3) -> str:
    """`value` with three significant digits and no exponent: 0.0123, 4.5, 286, 12,340."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    if decimals <= 0:
        return f"{value:,.0f}"
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percentage(share: float) -> str:
    """A share from 0 to 1 as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """Seconds below two minutes, minutes and seconds from there."""
    if seconds < 120:
        return f"{significant(seconds)} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def decibels(ratio: float) -> str:
    """A ratio in dB with one decimal; an infinite one, of what has no error at all, is "exact"."""
    return "exact" if ratio == math.inf else f"{ratio:.1f}"
