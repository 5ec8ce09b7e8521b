"""Write down what an output folder holds and where it came from, and hold the folder to it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import castline
from castline.errors import OutputError

MANIFEST = "manifest.json"
FORMAT = 1
# Reports hold times, which differ from run to run; the manifest does not speak of them.
_NOT_LISTED = (MANIFEST, "report.json", "report.html")
_BLOCK = 1 << 20


def write_manifest(folder: Path, facts: Mapping[str, object]) -> Mapping[str, object]:
    """Write `folder`/manifest.json from `facts` and the size and SHA-256 of every file there.

    The same facts and files give the same bytes: no times and no absolute paths. A source given as
    an absolute path, of the checkpoint or of the evaluation text, is therefore written as its last
    name; the hash beside it identifies it.
    """
    own = {"castline_format": FORMAT, "castline_version": castline.__version__}
    taken = (own.keys() | {"files"}) & facts.keys()
    assert not taken, f"the caller of write_manifest promised not to give {sorted(taken)}"
    document: dict[str, object] = {**facts, **own, "files": _files(folder)}
    document = _without_absolute_source(document)
    text_facts = document.get("evaluation_text")
    if isinstance(text_facts, Mapping):
        document["evaluation_text"] = _without_absolute_source(text_facts)
    text = json.dumps(_plain(document), indent=2, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return document


def read_manifest(folder: Path) -> Mapping[str, object]:
    """Return the manifest of an output folder.

    Raises OutputError when the folder, the manifest or its format is not what Castline writes.
    """
    path = folder / MANIFEST
    try:
        document: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OutputError(_missing(folder)) from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise OutputError(f"{path}: expected JSON: {error}. Compile the model again.") from error
    found = document.get("castline_format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(found, int):
        raise OutputError(f"{path}: was not written by Castline (no castline_format).")
    if found > FORMAT:
        raise OutputError(
            f"{path}: has format {found}, and this Castline {castline.__version__} reads up to "
            f"{FORMAT}. Install the Castline that wrote it: {document.get('castline_version')}."
        )
    return document


def verify(folder: Path) -> list[str]:
    """Return how the files of `folder` differ from its manifest, a sentence each; [] if not.

    Raises OutputError when there is no manifest to compare with.
    """
    listed = read_manifest(folder).get("files")
    if not isinstance(listed, dict):
        raise OutputError(f"{folder / MANIFEST}: files: expected a mapping of names.")
    present = {path.relative_to(folder).as_posix(): path for path in _listed_paths(folder)}
    differences = [f"{name} is missing" for name in sorted(listed.keys() - present.keys())]
    differences += [
        f"{name} is not in the manifest" for name in sorted(present.keys() - listed.keys())
    ]
    for name in sorted(listed.keys() & present.keys()):
        size = present[name].stat().st_size
        if size != listed[name].get("size"):
            differences.append(f"{name} has {size} bytes, expected {listed[name].get('size')}")
        elif sha256_of(present[name]) != listed[name].get("sha256"):
            differences.append(f"{name} has other content (SHA-256) than was written")
    return differences


def require_unchanged(folder: Path) -> None:
    """Raise OutputError with every difference if `folder` is not what its manifest says."""
    differences = verify(folder)
    if differences:
        raise OutputError(
            f"{folder}: is not as it was written:\n  "
            + "\n  ".join(differences)
            + "\nCompile the model again, or copy the folder again."
        )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> dict[str, object]:
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": sha256_of(path),
            "size": path.stat().st_size,
        }
        for path in _listed_paths(folder)
    }


def _listed_paths(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.relative_to(folder).as_posix() not in _NOT_LISTED:
            yield path


def _without_absolute_source(facts: Mapping[str, object]) -> dict[str, object]:
    source = facts.get("source")
    if isinstance(source, str) and Path(source).is_absolute():
        return {**facts, "source": Path(source).name}
    return dict(facts)


def _plain(value: object) -> object:
    """JSON has no NaN and no infinity: they become the strings that Python spells them with."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _missing(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} does not exist. `castline compile MODEL -o {folder}` makes such a folder."
    return (
        f"{folder}: has no {MANIFEST}, so Castline did not write it. Give the folder that "
        "`castline compile` or `castline export` wrote."
    )
