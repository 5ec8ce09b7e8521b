"""Keep a plan on disk, block by block, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.numpy
from safetensors import SafetensorError

from castline.compiler.plan.codec import decoded, encoded
from castline.compiler.plan.codes import CODES, encoded_codes, stored_codes
from castline.compiler.plan.decisions import (
    CalibrationFacts,
    PlanIdentity,
    PlannedBlock,
    QuantPlan,
)
from castline.compiler.plan.disk import refusing_full_disk
from castline.compiler.quant.arrays import Array
from castline.errors import OutputError

FORMAT = 3
HEADER = "plan.json"
BLOCKS = "blocks"
_FIELDS = {"blocks", "recipe", "files"}
WORK = "unfinished"
"""What a run that goes on needs, and a finished plan does not."""


@dataclass(frozen=True)
class PlanStore:
    """A plan's folder while it is being made.

    plan.json says what the plan depends on and, when all is done, the hash of every file;
    blocks/000.json and blocks/000.safetensors hold what was decided for the first block, and
    blocks/000.codes.safetensors the codes of its weights, where search chose them. Each file is
    written beside its place and renamed, so that what is there is whole.
    """

    folder: Path
    identity: PlanIdentity
    recipe: Mapping[str, object]
    """The whole recipe, to compile by the plan alone."""
    blocks: int

    @property
    def work(self) -> Path:
        """A folder for what is needed to go on."""
        return self.folder / WORK

    @property
    def finished(self) -> int:
        """How many blocks from the first are done."""
        done = 0
        while done < self.blocks and self._file(done, "json").is_file():
            done += 1
        return done

    def begin(self, *, overwrite: bool) -> None:
        """Make the folder, or go on in it if it is a plan of the same checkpoint, recipe and text.

        Raises OutputError if it holds something else, unless a plan may be overwritten.
        """
        if self._holds_something():
            self._require_own(overwrite)
        with refusing_full_disk(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Before all else: a run that is killed here must know the folder for its own.
            if not (self.folder / HEADER).is_file():
                self._write_header(files=None)
            for folder in (self.folder / BLOCKS, self.work):
                folder.mkdir(exist_ok=True)

    def write(self, block: PlannedBlock) -> None:
        """Keep what was decided for the next block; its .json comes last and says that it is."""
        fields, arrays = encoded(block)
        with refusing_full_disk(self.folder):
            written = safetensors.numpy.save(arrays)
            _write(self._file(block.index, "safetensors"), written)
            if block.codes:
                codes = safetensors.numpy.save(encoded_codes(block.codes))
                _write(self._file(block.index, CODES), codes)
            _write(self._file(block.index, "json"), _json(fields))

    def finish(self) -> QuantPlan:
        """Write the hash of every file, remove what only a run needs, and return the plan.

        Raises OutputError if the plan was finished before and a file was changed since.
        """
        assert self.finished == self.blocks, "every block was written"
        if _header(self.folder)["files"] is None:
            with refusing_full_disk(self.folder):
                self._write_header(self._hashes())
        shutil.rmtree(self.work, ignore_errors=True)
        return read_plan(self.folder)

    def _hashes(self) -> dict[str, str]:
        return {
            f"{BLOCKS}/{path.name}": _sha256(path)
            for path in sorted((self.folder / BLOCKS).iterdir())
            if path.suffix in (".json", ".safetensors")
        }

    def _holds_something(self) -> bool:
        if not self.folder.is_dir():
            return False
        return any(path.name != f"{HEADER}.unfinished" for path in self.folder.iterdir())

    def _file(self, index: int, suffix: str) -> Path:
        return self.folder / BLOCKS / f"{index:03}.{suffix}"

    def _write_header(self, files: Mapping[str, str] | None) -> None:
        header = {
            "format": FORMAT,
            "blocks": self.blocks,
            "identity": asdict(self.identity),
            "identity_sha256": identity_sha256(self.identity),
            "recipe": self.recipe,
            "files": files,
        }
        _write(self.folder / HEADER, _json(header))

    def _require_own(self, overwrite: bool) -> None:
        header = _header(self.folder)
        same = header["identity_sha256"] == identity_sha256(self.identity)
        if same and header["blocks"] == self.blocks:
            return
        if not overwrite:
            differing = ", ".join(_differing(header["identity"], asdict(self.identity)))
            raise OutputError(
                f"{self.folder}: holds a plan of another {differing or 'model'}. Use --overwrite "
                "to replace it, or another folder."
            )
        with refusing_full_disk(self.folder):
            for part in (self.folder / BLOCKS, self.work):
                shutil.rmtree(part, ignore_errors=True)
            (self.folder / HEADER).unlink()


def read_plan(folder: Path) -> QuantPlan:
    """Return the finished plan in a folder.

    Raises OutputError if there is none, if it is not finished, or if a file was changed.
    """
    header = _header(folder)
    if header["files"] is None:
        done = len(list((folder / BLOCKS).glob("*.json")))
        raise OutputError(
            f"{folder}: the plan is not finished, {done} of {header['blocks']} blocks are. Give "
            "the castline quantize command that began it again: it goes on from there."
        )
    for name, sha256 in header["files"].items():
        if not (folder / name).is_file() or _sha256(folder / name) != sha256:
            raise OutputError(
                f"{folder / name}: is not what castline quantize wrote (its SHA-256 differs, or it "
                "is missing). Remove the folder and make the plan again."
            )
    blocks = tuple(_read_block(folder, index) for index in range(header["blocks"]))
    fields = header["identity"]
    calibration = CalibrationFacts(**fields["calibration"])
    identity = PlanIdentity(**fields | {"calibration": calibration})
    return QuantPlan(identity, header["recipe"], blocks)


def identity_sha256(identity: PlanIdentity) -> str:
    """Return the SHA-256 of what a plan depends on."""
    return hashlib.sha256(_json(asdict(identity))).hexdigest()


def _read_block(folder: Path, index: int) -> PlannedBlock:
    path = folder / BLOCKS / f"{index:03}.json"
    try:
        arrays: dict[str, Array] = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
        block = decoded(json.loads(path.read_text(encoding="utf-8")), arrays)
        codes = path.with_suffix(f".{CODES}")
        return replace(block, codes=stored_codes(codes, block)) if codes.is_file() else block
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OutputError(f"{path}: cannot be read as a block of a plan: {error}.") from error


def _header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if header["format"] != FORMAT:
            raise OutputError(
                f"{path}: is of format {header['format']}, and this Castline reads {FORMAT}. Make "
                "the plan again."
            )
        identity = hashlib.sha256(_json(header["identity"])).hexdigest()
        if not header.keys() >= _FIELDS or identity != header["identity_sha256"]:
            raise OutputError(f"{path}: was changed. Remove the folder and make the plan again.")
    except FileNotFoundError as error:
        raise OutputError(
            f"{folder}: holds no quantization plan ({HEADER} is missing). Name a folder that "
            "castline quantize wrote, or a new one to write."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OutputError(f"{path}: cannot be read as a plan: {error}.") from error
    return header


def _differing(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    words = {
        "checkpoint_sha256": "checkpoint",
        "searched": "recipe",
        "calibration": "calibration text",
        "version": "version of Castline",
    }
    return [word for key, word in words.items() if found.get(key) != wanted[key]]


def _json(fields: object) -> bytes:
    text = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _write(path: Path, content: bytes) -> None:
    """Write a file beside its place, force it to the disk, and rename it."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
