"""Find the checkpoint that an output folder was compiled from, and make sure that it is the one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from castline.errors import CheckpointError
from castline.exporters.checkpoint import Checkpoint, is_on_hub
from castline.progress import Progress


def local_path(source: str) -> Path | None:
    """Return the absolute path of a source that is a folder or a file here; None for a hub id."""
    path = Path(source).expanduser()
    return path.absolute() if path.exists() else None


def recorded_source(
    folder: Path, manifest: Mapping[str, object], report: Mapping[str, object]
) -> str:
    """Return the source that `manifest` and `report` of an output folder name, to open it again.

    A source that was a path is looked for where it was and, for one that was relative, from the
    working directory; it is never looked up on the Hub. Raises CheckpointError if it is gone.
    """
    if manifest.get("source_is_local") is False:
        return str(manifest["source"])
    named = (report.get("source_path"), report.get("source"), manifest.get("source"))
    paths = [path for path in named if isinstance(path, str)]
    for path in paths:
        if local_path(path) is not None:
            return path
    origin = paths[0] if paths else "a checkpoint that its manifest does not name"
    raise CheckpointError(
        f"{folder} was compiled from {origin}, which does not exist here. Name the original, "
        "or where it is now, with --against MODEL."
    )


def require_recorded(
    checkpoint: Checkpoint, folder: Path, manifest: Mapping[str, object], progress: Progress
) -> tuple[str, ...]:
    """Raise CheckpointError unless `checkpoint` has the hash that the manifest of `folder` has.

    Returns notes: where the manifest has no hash, as after an export, that nothing was verified.
    """
    recorded = manifest.get("checkpoint_sha256")
    if recorded is None:
        return (
            "the manifest has no hash of the checkpoint, so whether it changed since was not seen",
        )
    with progress.stage(
        "Hashing the checkpoint", total=checkpoint.hashed_bytes, unit="B"
    ) as advance:
        found = checkpoint.sha256(advance)
    if found == recorded:
        return ()
    raise CheckpointError(
        f"{checkpoint.source} is not what {folder} was compiled from: its SHA-256 is {found}, and "
        f"the manifest has {recorded}. Compile it again, or compare with what is there now by "
        f"--against {checkpoint.source}."
    )


def opening_title(source: str) -> str:
    """Return the title of the stage that opens `source`; a download takes its time."""
    if is_on_hub(source):
        return "Opening the checkpoint, from the Hub where the cache lacks it"
    return "Opening the checkpoint"
