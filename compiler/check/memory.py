"""Say before the start when the original will not fit into memory."""

from __future__ import annotations

from pathlib import Path

from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint

_FLOAT32 = 4  # bytes a weight, as the original runs
_BESIDE = 1.25  # the result, its cache and the logits of a window stand beside the original
_MEMINFO = Path("/proc/meminfo")


def require_memory(checkpoint: Checkpoint, available: int | None) -> None:
    """Raise TargetError if the original in float32 needs more than `available` bytes.

    None means that the system does not tell, and then nothing is refused.
    """
    weights = sum(spec.size for spec in checkpoint.tensors.values())
    needed = int(weights * _FLOAT32 * _BESIDE)
    if available is not None and needed > available:
        raise TargetError(
            f"{checkpoint.source}: comparing with the original takes about {needed / 1e9:.1f} GB of "
            f"memory, and {available / 1e9:.1f} GB are available. Compile with --no-gate here, and "
            "run castline check where there is more memory."
        )


def available_memory(meminfo: Path = _MEMINFO) -> int | None:
    """Return the bytes that a new process can have without swapping, as Linux estimates them."""
    if not meminfo.is_file():
        return None
    for line in meminfo.read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024  # given in kB
    return None
