"""Translate between compute capabilities, as people write them, and nvcc's architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable

from castline.errors import PluginError

EVERY = ("80", "86", "89", "90a", "100", "120")
"""What a library for all GPUs is built for; later ones compile its PTX when it is loaded."""

_LEAST = (8, 0)
_CAPABILITY = re.compile(r"(?P<major>\d{1,2})\.(?P<minor>\d)a?")
_OWN_INSTRUCTIONS = ("90",)  # 9.0a has the warpgroup instructions, which 9.0 leaves out


def architectures_from(capabilities: Iterable[str]) -> tuple[str, ...]:
    """Return nvcc's architectures ("89", "90a") for compute capabilities ("8.9", "9.0"), in order.

    Raises:
        PluginError: one is no compute capability, or below 8.0.
    """
    found = {_architecture(capability.strip()) for capability in capabilities}
    return tuple(sorted(found, key=number))


def capability_from(architecture: str) -> str:
    """Return the compute capability ("9.0") of an architecture of nvcc ("90a")."""
    return f"{number(architecture) // 10}.{number(architecture) % 10}"


def number(architecture: str) -> int:
    """Return 90 for "90" and "90a"."""
    return int(architecture.rstrip("a"))


def _architecture(capability: str) -> str:
    match = _CAPABILITY.fullmatch(capability)
    if match is None:
        raise PluginError(
            f"{capability!r} is no compute capability: expected two numbers such as 8.9, several "
            "with commas between"
        )
    major, minor = int(match["major"]), int(match["minor"])
    if (major, minor) < _LEAST:
        raise PluginError(
            f"the kernels need compute capability 8.0 or later (GeForce RTX 30, A100); "
            f"{capability} has not the instructions they use: leave it out, as with "
            "--architectures 8.9"
        )
    name = f"{major}{minor}"
    return f"{name}a" if name in _OWN_INSTRUCTIONS else name
