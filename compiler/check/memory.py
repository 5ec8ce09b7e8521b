"""Say before the start when the original and the result will not fit into memory together."""

from __future__ import annotations

from pathlib import Path

from castline.errors import TargetError
from castline.exporters.checkpoint import Checkpoint

_FLOAT32 = 4  # bytes a weight, as the original runs
_BESIDE = 1.25  # both models' caches, activations and logits of a window stand beside the weights
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT = "max"


def require_memory(
    checkpoint: Checkpoint, result_bytes: int, available: int | None, advice: str
) -> None:
    """Raise TargetError if comparing needs more than `available` bytes; `advice` says what to do.

    The original in float32 stands beside a result of `result_bytes`. None means that the system
    does not tell, and then nothing is refused.
    """
    weights = sum(spec.size for spec in checkpoint.tensors.values())
    both = weights * _FLOAT32 + result_bytes
    require_memory_for(checkpoint.source, both, available, advice)


def require_memory_for(source: str, both: int, available: int | None, advice: str) -> None:
    """Raise TargetError if two models of `both` bytes do not fit; see `require_memory`."""
    needed = int(both * _BESIDE)
    if available is not None and needed > available:
        raise TargetError(
            f"{source}: comparing with the original takes about {needed / 1e9:.1f} GB "
            f"of memory, and {available / 1e9:.1f} GB are available. {advice}"
        )


def available_memory(meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> int | None:
    """Return the bytes that this process can have without swapping; None if nothing tells.

    It is the smaller of what Linux estimates for the machine and what the control group allows.
    """
    told = [amount for amount in (_machine(meminfo), _group(cgroup)) if amount is not None]
    return min(told, default=None)


def _machine(meminfo: Path) -> int | None:
    available = _fields(meminfo).get("MemAvailable:")
    return None if available is None else available * 1024  # given in kB


def _group(cgroup: Path) -> int | None:
    limit, used = cgroup / "memory.max", cgroup / "memory.current"
    if not limit.is_file() or not used.is_file():
        return None  # no control group, or the root of all, which has no limit
    text = limit.read_text(encoding="ascii").strip()
    if text == _NO_LIMIT:
        return None
    # Pages of files count as used, though they give way, as the checkpoint's own just read.
    files = _fields(cgroup / "memory.stat")
    evictable = files.get("active_file", 0) + files.get("inactive_file", 0)
    return max(0, int(text) - int(used.read_text(encoding="ascii")) + evictable)


def _fields(file: Path) -> dict[str, int]:
    """The first number after each name in a file of `name number` lines; {} without the file."""
    if not file.is_file():
        return {}
    lines = (line.split() for line in file.read_text(encoding="ascii").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1}
