"""Say in words why an engine cannot run here, before TensorRT is asked to load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from castline.compiler.package.engine_plugins import plugin_library
from castline.compiler.package.manifest import MANIFEST, difference, read_manifest
from castline.compiler.targets.write import MODEL
from castline.errors import OutputError, TargetError

TITLES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}
_EDITIONS = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}  # by module
DEFAULT = "default"
"""The compute capabilities of an engine that was built for none in particular."""
# Of TensorRT-RTX: one that was built for the default runs on these, and on what came later.
_OF_DEFAULT = ((8, 0), (8, 6), (8, 9))
_LATER = (12, 0)
_AMPERE = (8, 0)


class TensorRTModule(Protocol):
    """The module tensorrt, or tensorrt_rtx."""

    __name__: str
    __version__: str


@dataclass(frozen=True)
class EngineIdentity:
    """What an engine was built with and for, as the manifest of its folder says."""

    path: Path
    edition: str
    """tensorrt or tensorrt-rtx."""
    version: str
    """Of the TensorRT that built it."""
    compute_capabilities: tuple[str, ...]
    """Such as "8.9"; none: the default set of TensorRT-RTX."""
    version_compatible: bool = False
    """Whether later versions of the same major version load it."""
    hardware_compatibility: str = "none"
    """none, ampere+ or same-compute-capability: of TensorRT alone."""
    weights_stripped: bool = False
    """Whether it needs its weights put in before it computes anything."""

    @property
    def title(self) -> str:
        """The TensorRT that built it: "TensorRT-RTX 1.7.1.116"."""
        return f"{TITLES[self.edition]} {self.version}"

    @property
    def gpus(self) -> str:
        """The compute capabilities that it was built for, in words."""
        return gpus_in_words(self.edition, self.compute_capabilities, self.hardware_compatibility)


def gpus_in_words(
    edition: str, compute_capabilities: Sequence[str], hardware_compatibility: str = "none"
) -> str:
    """Return for which compute capabilities an engine was built: "8.9, 12.0".

    None are given where nobody chose: what the builder takes by itself is said then.
    """
    if hardware_compatibility == "ampere+":
        return "8.0 and later"
    if compute_capabilities:
        return ", ".join(compute_capabilities)
    if edition == "tensorrt":
        return "not written down (the GPU that it was built on)"
    return "8.0, 8.6, 8.9, 12.0 and later (TensorRT-RTX's default)"


def engine_identity(folder: Path) -> EngineIdentity:
    """Return what the manifest of `folder` says of its engine.

    Raises OutputError where the folder has no engine, or its manifest says too little of it.
    """
    manifest = read_manifest(folder)
    build = manifest.get("build")
    engine = build.get("engine") if isinstance(build, Mapping) else None
    if not isinstance(build, Mapping) or not isinstance(engine, str):
        raise OutputError(
            f"{folder}: has no engine: it was made for the target {manifest.get('target')}. "
            "Compile the model with --target tensorrt or tensorrt-rtx."
        )
    edition, version = build.get("edition"), build.get("version")
    capabilities = build.get("compute_capabilities")
    if edition not in TITLES or not isinstance(version, str):
        raise OutputError(
            f"{folder / MANIFEST}: build: expected the edition and the version of the TensorRT "
            "that built the engine; compile the model again."
        )
    return EngineIdentity(
        path=folder / engine,
        edition=edition,
        version=version,
        compute_capabilities=tuple(capabilities) if isinstance(capabilities, list) else (),
        version_compatible=build.get("version_compatible") is True,
        hardware_compatibility=str(build.get("hardware_compatibility") or "none"),
        weights_stripped=build.get("weights_stripped") is True,
    )


def require_runnable(folder: Path, tensorrt: TensorRTModule, device: str | None) -> EngineIdentity:
    """Return the engine of `folder` if it can be loaded here, before it is deserialized.

    `tensorrt` is the module that is to load it, `device` the compute capability of the GPU, such as
    "8.9"; None: unknown, and not judged. What the engine's plugins need is loaded afterwards, by
    `load_engine_plugins`.

    Raises:
        OutputError: there is no engine, or it or its plugin library is not as it was written.
        TargetError: it was built by another TensorRT or for another GPU; names all that differs.
    """
    engine = engine_identity(folder)
    _require_whole(folder, engine.path)
    plugin_library(folder)
    if engine.weights_stripped:
        raise TargetError(
            f"{engine.path} was built without its weights. Put them in, on the machine that is to "
            f"run it: castline build {folder} --refit -o {folder}-here"
        )
    reasons = [*_other_tensorrt(engine, tensorrt), *_other_device(engine, device)]
    if not reasons:
        return engine
    listed = "\n  ".join(reasons)
    raise TargetError(f"{engine.path} cannot run here:\n  {listed}\n{_way_out(folder)}")


def _way_out(folder: Path) -> str:
    if (folder / MODEL).is_file():
        return (
            f"Build it again on this machine, from the {MODEL} beside it: castline build {folder} "
            f"-o {folder}-here"
        )
    return (
        f"There is no {MODEL} beside it, as a package leaves it out. Copy the compiled folder here "
        "and build it again: castline build OUT -o OUT2"
    )


def _require_whole(folder: Path, engine: Path) -> None:
    name = engine.relative_to(folder).as_posix()
    files = read_manifest(folder).get("files")
    recorded = files.get(name) if isinstance(files, Mapping) else None
    if not isinstance(recorded, Mapping):
        raise OutputError(f"{folder / MANIFEST}: files: does not list {name}; compile it again.")
    if found := difference(name, engine, recorded):
        raise OutputError(
            f"{folder}: {found}. The engine was cut short or changed, and is not loaded; copy the "
            "folder again, or build it again: castline build."
        )


def _other_tensorrt(engine: EngineIdentity, tensorrt: TensorRTModule) -> Iterator[str]:
    edition = _EDITIONS.get(tensorrt.__name__)
    assert edition is not None, f"the caller promised a TensorRT, and gave {tensorrt.__name__}"
    here = f"{TITLES[edition]} {tensorrt.__version__}"
    if edition != engine.edition:
        yield f"it was built with {engine.title}, and {here} loads it here: these are two products"
    elif not _takes(engine, tensorrt.__version__):
        compatible = (
            ", and is taken by later ones of the same major version alone"
            if engine.version_compatible
            else ", and is taken by that very version alone"
        )
        yield f"it was built with {engine.title}{compatible}; here is {here}"


def _takes(engine: EngineIdentity, version: str) -> bool:
    if not engine.version_compatible:
        return engine.version == version
    built, here = _numbers(engine.version), _numbers(version)
    return built[0] == here[0] and built <= here


def _other_device(engine: EngineIdentity, device: str | None) -> Iterator[str]:
    if device is None or _runs_on(engine, device):
        return
    yield f"it was built for compute capability {engine.gpus}; the GPU here has {device}"


def _runs_on(engine: EngineIdentity, device: str) -> bool:
    here = _numbers(device)
    if engine.edition == "tensorrt" and engine.hardware_compatibility == "ampere+":
        return here >= _AMPERE
    if engine.compute_capabilities:
        return here in map(_numbers, engine.compute_capabilities)
    # A TensorRT that did not write down its GPU leaves the judgement to deserialization.
    return engine.edition == "tensorrt" or here in _OF_DEFAULT or here >= _LATER


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a version or a compute capability: 1.7.1.116, 8.9."""
    return tuple(int(part) for part in text.split(".") if part.isdecimal())
