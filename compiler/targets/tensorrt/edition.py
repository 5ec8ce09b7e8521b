"""Tell the two TensorRTs apart: what each is called, needs, and has no option for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from castline.compiler.targets.tensorrt.engine_options import EngineOptions


@dataclass(frozen=True)
class Edition:
    """TensorRT or TensorRT-RTX; the Python API of both is nearly the same."""

    name: str
    """Of the target, and in a manifest."""
    title: str
    module: str
    library_module: str
    """The module of the wheels that hold the libraries."""
    library: str
    """What the ONNX parser opens, by this bare name, to add a plugin."""
    install: str
    is_rtx: bool
    """Builds without a GPU, for compute capabilities that are named."""

    @property
    def default_capabilities(self) -> str:
        """Which GPUs an engine is for where nobody chose."""
        if self.is_rtx:
            return "8.0, 8.6, 8.9, 12.0 and later (TensorRT-RTX's default)"
        return "that of the GPU it was built on"

    def environment(self) -> dict[str, str]:
        """Return what has Polygraphy import this edition."""
        return {"POLYGRAPHY_USE_TENSORRT_RTX": "1" if self.is_rtx else "0"}

    def refused(self, options: EngineOptions) -> tuple[str, ...]:
        """Return a sentence or two for each option that this edition does not have."""
        return tuple(_of_tensorrt_alone(options) if self.is_rtx else _of_rtx_alone(options))


TENSORRT = Edition(
    name="tensorrt",
    title="TensorRT",
    module="tensorrt",
    library_module="tensorrt_libs",
    library="libnvinfer.so",
    install="pip install tensorrt-cu13 (10.x or 11.x; JetPack brings its own)",
    is_rtx=False,
)
TENSORRT_RTX = Edition(
    name="tensorrt-rtx",
    title="TensorRT-RTX",
    module="tensorrt_rtx",
    library_module="tensorrt_rtx_libs",
    library="libtensorrt_rtx.so",
    install="pip install tensorrt-rtx-cu13",
    is_rtx=True,
)
EDITIONS = (TENSORRT, TENSORRT_RTX)


def edition_named(name: str) -> Edition:
    """Return the edition of a target that makes engines."""
    return next(edition for edition in EDITIONS if edition.name == name)


def _of_tensorrt_alone(options: EngineOptions) -> Iterator[str]:
    if options.timing_cache is not None:
        yield (
            "TensorRT-RTX times no kernels when it builds, so it has no timing cache. Leave "
            "--timing-cache out, or use --target tensorrt."
        )
    if options.version_compatible:
        yield (
            "TensorRT-RTX builds engines for its own version alone. Leave --version-compatible "
            "out, or use --target tensorrt."
        )
    if options.hardware_compatibility != "none":
        yield (
            "TensorRT-RTX is told the GPUs of an engine by compute capability, and takes several. "
            "Use --compute-capability in place of --hardware-compatibility, or --target tensorrt."
        )


def _of_rtx_alone(options: EngineOptions) -> Iterator[str]:
    if options.compute_capabilities:
        yield (
            "TensorRT builds for the GPU that it builds on. Leave --compute-capability out and "
            "build on such a GPU, or add --hardware-compatibility ampere+, or use --target "
            "tensorrt-rtx, which builds for any."
        )
