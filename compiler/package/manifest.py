"""Write down what an output folder holds and where it came from, and hold the folder to it.

manifest.json of a compiled folder has these fields:

- `castline_format`, `castline_version`, `libraries`: what wrote it.
- `files`: the size in bytes and the SHA-256 of every file but the manifest and the two reports.
- `source`, `source_is_local`, `checkpoint_revision`, `checkpoint_sha256`: the checkpoint; the
  revision is the commit of one that came from the Hub, else null.
- `recipe`, `dtype`, `calibration`, `evaluation_text`: how it was quantized and judged; the texts by
  name and SHA-256, null where there was none.
- `target`, `build`: what it runs on; of an engine its edition and version of TensorRT, its compute
  capabilities, its profiles, and the SHA-256 of its plugin library under `plugins`.
- `figures`, `bits_per_weight`, `not_executed`: how near it is to the original, the verdicts of the
  gate among them, and what was not run.
- `package`: of a package alone: its kind, and what it was made of.
"""

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

    Returns what `manifest_document` makes of them.
    """
    document = manifest_document(facts, _files(folder))
    (folder / MANIFEST).write_bytes(manifest_bytes(document))
    return document


def manifest_document(
    facts: Mapping[str, object], files: Mapping[str, object]
) -> Mapping[str, object]:
    """Return the manifest of `files`, by name, each with its size and sha256.

    The same facts and files give the same document: no times and no absolute paths. A source given
    as an absolute path, of the checkpoint or of a text, is therefore written as its last name; the
    hash beside it identifies it.
    """
    own = {"castline_format": FORMAT, "castline_version": castline.__version__}
    taken = (own.keys() | {"files"}) & facts.keys()
    assert not taken, f"the caller of manifest_document promised not to give {sorted(taken)}"
    document: dict[str, object] = {**facts, **own, "files": files}
    document = _without_absolute_source(document)
    for name in ("evaluation_text", "calibration"):
        text_facts = document.get(name)
        if isinstance(text_facts, Mapping):
            document[name] = _without_absolute_source(text_facts)
    return document


def manifest_bytes(document: Mapping[str, object]) -> bytes:
    """Return a manifest as it is written: JSON, its keys in order."""
    text = json.dumps(_plain(document), indent=2, sort_keys=True, ensure_ascii=False)
    return f"{text}\n".encode()


def facts_of(manifest: Mapping[str, object]) -> dict[str, object]:
    """Return what `write_manifest` was given to write `manifest`."""
    own = ("castline_format", "castline_version", "files")
    return {key: value for key, value in manifest.items() if key not in own}


def read_manifest(folder: Path) -> Mapping[str, object]:
    """Return the manifest of an output folder.

    Raises OutputError when the folder, the manifest or its format is not what Castline writes.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise OutputError(_missing(folder)) from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}.") from error
    return manifest_from(content, path)


def manifest_from(content: bytes, path: Path) -> Mapping[str, object]:
    """Return the manifest that a file holds; `path` is named in errors. Raises OutputError."""
    try:
        document: object = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
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
    listed = listed_files(read_manifest(folder), folder / MANIFEST)
    present = {path.relative_to(folder).as_posix(): path for path in _present_paths(folder)}
    differences = [f"{name} is missing" for name in sorted(listed.keys() - present.keys())]
    differences += [
        f"{name} is not in the manifest" for name in sorted(present.keys() - listed.keys())
    ]
    for name in sorted(listed.keys() & present.keys()):
        if found := difference(name, present[name], listed[name]):
            differences.append(found)
    return differences


def listed_files(manifest: Mapping[str, object], path: Path) -> Mapping[str, Mapping[str, object]]:
    """Return what a manifest says of each file; `path` is named in errors. Raises OutputError."""
    listed = manifest.get("files")
    if not isinstance(listed, dict) or not all(isinstance(one, dict) for one in listed.values()):
        raise OutputError(f"{path}: files: expected a mapping of names, with size and sha256 each.")
    return listed


def difference(name: str, path: Path, recorded: Mapping[str, object]) -> str | None:
    """Return how the file at `path` differs from what a manifest says of it; None if not.

    A file of another size is not read.
    """
    if not path.is_file():
        return f"{name} is missing"
    size = path.stat().st_size
    if size != recorded.get("size"):
        return f"{name} has {size} bytes, expected {recorded.get('size')}"
    if sha256_of(path) != recorded.get("sha256"):
        return f"{name} has other content (SHA-256) than was written"
    return None


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


def _present_paths(folder: Path) -> Iterator[Path]:
    """Yield what lies in a folder, links without an end among it, but no folders."""
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in _NOT_LISTED:
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
