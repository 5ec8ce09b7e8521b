"""Put an output folder into a Triton model repository, as a model or as its next version."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from castline.compiler.package.contents import (
    engine_of,
    package_facts,
    packed_manifest,
    run_time_files,
)
from castline.compiler.package.manifest import (
    MANIFEST,
    read_manifest,
    sha256_of,
    write_manifest,
)
from castline.compiler.package.publish import publishing, require_outside
from castline.compiler.package.triton_config import TritonModel, TritonTensor, config_text
from castline.compiler.package.triton_interface import (
    interface_from,
    is_cached,
    warm_up_contents,
    warm_ups,
)
from castline.compiler.package.triton_readme import readme_text
from castline.compiler.targets.write import MODEL
from castline.errors import OutputError
from castline.exporters.names import LOGITS, WRITE_INDICES

CONFIG = "config.pbtxt"
WARM_UP = "warmup"
PLAN = "model.plan"
"""What Triton's tensorrt backend calls an engine."""
_ROWS = 32  # requests of an encoder that are joined on ONNX Runtime, which has no limit of its own
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SERVED = ("export", "onnx", "onnxruntime", "tensorrt")


@dataclass(frozen=True)
class Placed:
    """Where a version of a model went."""

    folder: Path
    """The version's folder."""
    model: TritonModel


def write_repository(
    folder: Path,
    repository: Path,
    *,
    name: str | None = None,
    version: int = 1,
    max_batch_size: int | None = None,
    overwrite: bool = False,
) -> Placed:
    """Put an output folder into `repository`/`name`/`version`, with what Triton needs to serve it.

    `name` is that of the folder unless it is given. `max_batch_size` is how many rows a request may
    have; None: 1 for a decoder, whose caches differ in length, and for an encoder what its engine
    takes, or 32. A new model appears whole, with config.pbtxt; a further version is one folder
    more, and needs the inputs and outputs of the others. A server that polls the repository
    meanwhile sees a hidden folder there, and reports that it is no model.

    Raises OutputError where the folder is not as it was written or is for what Triton does not run,
    the name or the version cannot be, or something is in the way; nothing is written then.
    """
    manifest = packed_manifest(folder)
    require_served(folder, manifest.get("target"))
    _require_provider(folder, manifest)
    name = required_name(folder.absolute().name if name is None else name)
    if version < 1:
        raise OutputError(f"version {version}: expected 1 or more, as Triton counts them.")
    if repository.is_symlink() or (repository.exists() and not repository.is_dir()):
        raise OutputError(f"{repository}: is no folder; give that of a model repository.")
    require_outside(repository / name, folder)
    model = _model(folder, manifest, name, max_batch_size)
    placed = Placed(repository / name / str(version), model)
    if (repository / name).exists():
        _require_alike(repository / name, placed)
        with publishing(placed.folder, overwrite=overwrite) as partial:
            _write_version(folder, manifest, partial, placed, repository / name)
        return placed
    with publishing(repository / name, overwrite=False) as partial:
        _write_shared(partial, model)
        (partial / str(version)).mkdir()
        _write_version(folder, manifest, partial / str(version), placed, partial)
    return placed


def require_served(folder: Path, target: object) -> None:
    """Raise OutputError unless Triton has a backend for what a target makes in `folder`."""
    if target not in _SERVED:
        why = (
            "Triton's tensorrt backend loads engines of TensorRT, which is another product. Build "
            "one of the target tensorrt"
            if target == "tensorrt-rtx"
            else "it holds a checkpoint, which Triton's backends do not load. Compile it"
        )
        raise OutputError(
            f"{folder}: is for the target {target}, and {why}, or use --target onnxruntime."
        )


def _require_provider(folder: Path, manifest: Mapping[str, object]) -> None:
    build = manifest.get("build")
    if isinstance(build, Mapping) and build.get("provider") == "tensorrt-rtx":
        raise OutputError(
            f"{folder}: is for ONNX Runtime's TensorRT-RTX provider, which Triton's onnxruntime "
            "backend does not have. Compile it with --provider cuda or cpu."
        )


def required_name(name: str) -> str:
    """Return the name of a model if it can be one. Raises OutputError."""
    if not _NAME.fullmatch(name):
        raise OutputError(
            f"{name!r} cannot be the name of a model, which is part of its address: letters, "
            "digits, dots, hyphens and underscores are, with a letter or a digit first. Give "
            "another: --name."
        )
    return name


def _model(
    folder: Path, manifest: Mapping[str, object], name: str, max_batch_size: int | None
) -> TritonModel:
    inputs, outputs = interface_from(folder / MODEL)
    if any(tensor.name == WRITE_INDICES for tensor in inputs):
        raise OutputError(
            f"{folder}: has a fixed cache, whose past and present are one buffer, and Triton gives "
            "each tensor its own. Compile it with --kv-cache growing."
        )
    build = manifest.get("build")
    facts = build if isinstance(build, Mapping) else {}
    profiles = facts.get("profiles") or ()
    engine = engine_of(manifest) is not None
    if engine and facts.get("logits") == "last":  # the builder was handed a copy that is cut so
        outputs = tuple(_last_token(tensor) for tensor in outputs)
    limit = _largest_batch(profiles, inputs[0].name) if engine else None
    rows = max_batch_size or (1 if is_cached(inputs) else limit or _ROWS)
    if rows < 1 or (limit is not None and rows > limit):
        raise OutputError(
            f"{folder}: {rows} rows in a request: expected 1 to {limit or 'any number'}, which "
            "its engine was built for; castline build it for more."
        )
    return TritonModel(
        name=name,
        backend="tensorrt" if engine else "onnxruntime",
        max_batch_size=rows,
        joins_requests=rows > 1 and not is_cached(inputs),
        inputs=inputs,
        outputs=outputs,
        on_gpu=engine or facts.get("provider") == "cuda",
        profiles=len(profiles),
        warm_ups=warm_ups(inputs),
    )


def _last_token(tensor: TritonTensor) -> TritonTensor:
    return replace(tensor, dims=(1, *tensor.dims[1:])) if tensor.name == LOGITS else tensor


def _largest_batch(profiles: object, name: str) -> int:
    """Return the most rows that every profile of an engine takes; each has min, opt and max."""
    assert isinstance(profiles, list), "the tensorrt targets write the profiles of an engine"
    return min(int(profile[name][-1][0]) for profile in profiles)


def _require_alike(home: Path, placed: Placed) -> None:
    """Refuse a version that cannot be served by the config.pbtxt of those that are there."""
    present = sorted(home.glob(f"[1-9]*/{MANIFEST}"))
    if not present or not (home / CONFIG).is_file():
        raise OutputError(
            f"{home}: holds a model that Castline did not put there. Give another: --name."
        )
    interface = _interface(placed.model)
    for manifest in present:
        package = read_manifest(manifest.parent).get("package")
        theirs = package.get("interface") if isinstance(package, Mapping) else None
        if theirs != interface:
            raise OutputError(
                f"{home}: version {manifest.parent.name} has other inputs, outputs or another "
                "backend, and all versions of a model share one config.pbtxt. Give another: --name."
            )


def _interface(model: TritonModel) -> dict[str, object]:
    """Return what the versions of a model have in common, as the manifest has it."""
    return {
        "backend": model.backend,
        "profiles": model.profiles,
        "inputs": {tensor.name: tensor.to_json() for tensor in model.inputs},
        "outputs": {tensor.name: tensor.to_json() for tensor in model.outputs},
    }


def _write_shared(home: Path, model: TritonModel) -> None:
    (home / CONFIG).write_text(config_text(model), encoding="utf-8")
    (home / WARM_UP).mkdir()
    for warm_up in model.warm_ups:
        for file, content in warm_up_contents(warm_up):
            (home / WARM_UP / file).write_bytes(content)


def _write_version(
    folder: Path, manifest: Mapping[str, object], destination: Path, placed: Placed, home: Path
) -> None:
    engine = engine_of(manifest)
    for name in run_time_files(folder, manifest):
        copy = destination / (PLAN if name == engine else name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, copy)
    text = readme_text(placed.model, manifest, folder / MODEL)
    (destination / "README.md").write_text(text, encoding="utf-8")
    shared = {
        path.relative_to(home).as_posix(): {"sha256": sha256_of(path), "size": path.stat().st_size}
        for path in sorted((home / CONFIG, *(home / WARM_UP).glob("*")))
        if path.is_file()
    }
    facts = package_facts(
        folder,
        manifest,
        "triton",
        name=placed.model.name,
        version=int(placed.folder.name),
        interface=_interface(placed.model),
        shared=shared,
    )
    if engine is not None and isinstance(facts["build"], Mapping):
        facts["build"] = {**facts["build"], "engine": PLAN}
    write_manifest(destination, facts)
