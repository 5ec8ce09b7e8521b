"""Pack an output folder into one tar file for an edge box, and verify it without unpacking."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from castline.compiler.package.contents import package_facts, packed_manifest, run_time_files
from castline.compiler.package.manifest import (
    MANIFEST,
    listed_files,
    manifest_bytes,
    manifest_document,
    manifest_from,
)
from castline.compiler.package.publish import require_outside
from castline.compiler.package.publish_file import publishing_file
from castline.errors import OutputError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
_NAME = re.compile(r"[^/\0]+")
_MANIFEST_LIMIT = 64 << 20  # bytes; a manifest has some kilobytes
_BLOCK = 1 << 20
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


def write_archive(folder: Path, archive: Path, *, overwrite: bool = False) -> Path:
    """Pack what running takes of an output folder into `archive`; return its path.

    It is a .tar, or a compressed .tar.gz or .tgz; quantized weights hardly get smaller. It unpacks
    into one folder, called as the archive without its suffix, which is an output folder again. The
    manifest comes first. The same folder gives the same bytes: names in order, no times, no owners.

    Raises OutputError where `folder` is not as it was written, `archive` has another suffix or is
    in the way, or the disk is full; nothing is written then.
    """
    root = _root(archive)
    require_outside(archive, folder)
    if overwrite and archive.is_file():
        archive_manifest(archive)  # only what Castline wrote is ever replaced
    manifest = packed_manifest(folder)
    files = run_time_files(folder, manifest)
    document = manifest_document(package_facts(folder, manifest, "tar"), files)
    content = manifest_bytes(document)
    with (
        publishing_file(archive, overwrite=overwrite) as partial,
        _opened(partial, compressed=archive.suffix != ".tar") as tar,
    ):
        tar.addfile(_member(f"{root}/{MANIFEST}", len(content)), io.BytesIO(content))
        for name in files:
            path = folder / name
            with path.open("rb") as file:
                tar.addfile(_member(f"{root}/{name}", path.stat().st_size), file)
    return archive


def is_archive(path: Path) -> bool:
    """Return whether a path has the suffix of an archive."""
    return path.name.endswith(SUFFIXES)


def archive_manifest(archive: Path) -> Mapping[str, object]:
    """Return the manifest of an archive, which is read no further. Raises OutputError."""
    with _reading(archive) as members:
        return _first(archive, members)[1]


def verify_archive(archive: Path) -> tuple[Mapping[str, object], tuple[str, ...]]:
    """Return the manifest of an archive, and how the rest of it differs, a sentence each.

    Nothing is unpacked. Raises OutputError when the file cannot be read, is no archive of Castline,
    or is damaged before its manifest ends.
    """
    with _reading(archive) as members:
        root, manifest = _first(archive, members)
        listed = listed_files(manifest, archive / MANIFEST)
        missing = set(listed)
        differences: list[str] = []
        try:
            for member, content in members:
                name = member.name.removeprefix(f"{root}/")
                differences += _difference(name, member, content, listed.get(name))
                missing.discard(name)
        except _DAMAGE as error:
            differences.append(f"the archive is cut short or damaged: {error}")
    differences += [f"{name} is missing" for name in sorted(missing)]
    return manifest, tuple(differences)


def _root(archive: Path) -> str:
    suffix = next((suffix for suffix in SUFFIXES[::-1] if archive.name.endswith(suffix)), None)
    root = archive.name.removesuffix(suffix or "")
    if suffix is None or not _NAME.fullmatch(root) or root in (".", ".."):
        raise OutputError(
            f"{archive}: cannot be an archive; give a name that ends in {', '.join(SUFFIXES)}."
        )
    return root


@contextmanager
def _opened(path: Path, *, compressed: bool) -> Iterator[tarfile.TarFile]:
    with path.open("wb") as file:
        if not compressed:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                yield tar
            return
        # By default gzip writes down the hour and the name of the file.
        with (
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            yield tar


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = size
    return member  # its time and its owner are 0, its mode 0644


Member = tuple[tarfile.TarInfo, IO[bytes] | None]


@contextmanager
def _reading(archive: Path) -> Iterator[Iterator[Member]]:
    try:
        with tarfile.open(archive, "r|*") as tar:
            # A link would be followed, and the archive read to its end.
            yield ((one, tar.extractfile(one) if one.isreg() else None) for one in tar)
    except FileNotFoundError as error:
        raise OutputError(f"{archive} does not exist.") from error
    except _DAMAGE as error:
        raise OutputError(
            f"{archive}: is no archive, or was cut short: {error}. Give a .tar that castline "
            "package wrote, or the folder that castline compile wrote."
        ) from error
    except OSError as error:
        raise OutputError(f"{archive}: cannot be read: {error.strerror}.") from error


def _first(archive: Path, members: Iterator[Member]) -> tuple[str, Mapping[str, object]]:
    """Return the folder that everything is in, and the manifest, which comes first."""
    member, content = next(members, (None, None))
    path = PurePosixPath("" if member is None else member.name)
    if content is None or len(path.parts) != 2 or path.name != MANIFEST:
        raise OutputError(
            f"{archive}: was not written by Castline: its first file is no {MANIFEST}. Make one: "
            "castline package OUT --package tar."
        )
    return path.parts[0], manifest_from(content.read(_MANIFEST_LIMIT), archive / MANIFEST)


def _difference(
    name: str, member: tarfile.TarInfo, content: IO[bytes] | None, recorded: object
) -> Iterator[str]:
    if content is None:
        yield f"{name} is no plain file"
    elif not isinstance(recorded, Mapping):
        yield f"{name} is not in the manifest"
    elif member.size != recorded.get("size"):
        yield f"{name} has {member.size} bytes, expected {recorded.get('size')}"
    elif _sha256(content) != recorded.get("sha256"):
        yield f"{name} has other content (SHA-256) than was written"


def _sha256(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := content.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()
