"""Keep an outcome beside the files it speaks of, as report.json, and read it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from castline.compiler.report.outcome import CompileOutcome, ExportOutcome
from castline.errors import OutputError

REPORT = "report.json"


def write_report(folder: Path, outcome: CompileOutcome | ExportOutcome) -> None:
    """Write `folder`/report.json; it holds times and speeds, so the manifest does not list it."""
    text = json.dumps(outcome.to_json(), indent=2, ensure_ascii=False)
    (folder / REPORT).write_text(text + "\n", encoding="utf-8")


def read_report(folder: Path) -> Mapping[str, object] | None:
    """Return what write_report wrote, or None when the folder has no report.

    Raises OutputError when the file is not a JSON object.
    """
    path = folder / REPORT
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: expected a JSON object: {error}. Remove the file.") from error
    if not isinstance(document, dict):
        raise OutputError(f"{path}: expected a JSON object. Remove the file.")
    return document
