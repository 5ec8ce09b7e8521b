"""Keep what makes sentence embeddings of an encoder's vectors: pooling and what follows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath

from castline.errors import CheckpointError, OutputError

MODULES = "modules.json"
_SETTINGS = ("config_sentence_transformers.json", "sentence_*_config.json")


def save_sentence_modules(source: Path, folder: Path) -> tuple[str, ...]:
    """Copy the files of sentence-transformers from the checkpoint `source`; return their names.

    These are modules.json, the settings beside it, and the folder of every module that it lists,
    such as 1_Pooling. There are none where `source` has no modules.json. Raises CheckpointError
    when that file is not what sentence-transformers writes, OutputError when one cannot be written.
    """
    if not (source / MODULES).is_file():
        return ()
    files = [source / MODULES]
    files += [file for pattern in _SETTINGS for file in source.glob(pattern)]
    files += [file for module in _module_folders(source) for file in module.iterdir()]
    names = sorted(file.relative_to(source) for file in files if file.is_file())
    try:
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, folder / name)
    except OSError as error:
        raise OutputError(
            f"{error.filename2 or error.filename or folder} cannot be written: {error.strerror}. "
            "Make room, or choose a folder that you may write to."
        ) from error
    return tuple(name.as_posix() for name in names)


def _module_folders(source: Path) -> list[Path]:
    """Return the folders that modules.json lists beside the encoder's own, which is the root."""
    path = source / MODULES
    try:
        modules: list[dict[str, object]] = json.loads(path.read_bytes())
        listed = [module["path"] for module in modules]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: expected a list of modules, each with its path ({error!r}). Download it "
            "again, or remove it if no sentence embeddings are wanted."
        ) from error
    folders = []
    for name in listed:
        if not isinstance(name, str) or name == ".." or PurePosixPath(name).name != name:
            raise CheckpointError(
                f"{path}: a module's path is {name!r}; expected the name of a folder beside it, "
                "such as 1_Pooling. Download it again."
            )
        folders.append(source / name)
    return [folder for folder in folders if folder != source and folder.is_dir()]
