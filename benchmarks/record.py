"""Keep a measurement with all it depends on: machine, versions, date and every raw run."""

from __future__ import annotations

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TypeAlias

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "castline",
    "torch",
    "transformers",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-genai",
)

Run: TypeAlias = Mapping[str, str | int | float]


def machine() -> dict[str, str | int | float | list[float]]:
    """Describe this machine, and how busy it was when the measurement began."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def medians(runs: Sequence[Run], by: str, of: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return, per value of the key `by`, the median over its runs of each key in `of`."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(str(run[by]), []).append(run)
    return {
        name: {key: median(float(run[key]) for run in group) for key in of}
        for name, group in groups.items()
    }


def result_path(name: str) -> Path:
    """Return where a measurement of today is kept."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return RESULTS / f"{name}-{today}.json"


def write_result(name: str, content: Mapping[str, object]) -> Path:
    """Write `content` with date and versions to `results/<name>-<date>.json`; return the path.

    A second measurement on one day replaces the first.
    """
    path = result_path(name)
    result = {
        "benchmark": name,
        "date": path.stem.removeprefix(f"{name}-"),
        "versions": {package: version(package) for package in PACKAGES},
        **content,
    }
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return `rows` under `header` as aligned text, the first column to the left."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def folder_mb(folder: Path) -> float:
    """Return the size of all files under `folder`, 1e6 bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    names = (line for line in info.read_text().splitlines() if line.startswith("model name"))
    return next(names, f": {platform.machine()}").split(":", 1)[1].strip()
