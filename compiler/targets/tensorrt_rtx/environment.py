"""Find TensorRT-RTX, prepare the environment of its builder, and say whether engines run here."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path

from castline.errors import TargetError

MODULE = "tensorrt_rtx"
LIBRARY_MODULE = "tensorrt_rtx_libs"
LIBRARY = "libtensorrt_rtx.so"


def require_builder() -> None:
    """Make sure that TensorRT-RTX is installed.

    Raises:
        TargetError: it is not.
    """
    if importlib.util.find_spec(MODULE) is None:
        raise TargetError(
            "the target tensorrt-rtx needs TensorRT-RTX, which is not installed: "
            "pip install tensorrt-rtx-cu13. Everything else works without it."
        )


def builder_environment(links: Path) -> dict[str, str]:
    """Return the environment of the building process; puts a library link into the folder `links`.

    The ONNX parser opens libtensorrt_rtx.so by that bare name to add a plugin, while the wheels
    ship libtensorrt_rtx.so.1 alone; without the link the process is terminated inside `parse`.
    """
    environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    library = _wheel_library()
    if library is None:  # an installed SDK: its folder is on the library path already
        return environment
    (links / LIBRARY).symlink_to(library)
    search = [str(links), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(search)
    return environment


def _wheel_library() -> Path | None:
    found = importlib.util.find_spec(LIBRARY_MODULE)
    folders = found.submodule_search_locations if found is not None else None
    libraries = [file for folder in folders or () for file in Path(folder).glob(f"{LIBRARY}.*")]
    return min(libraries) if libraries else None


def runnable_here() -> str | None:
    """Return why an engine cannot be executed on this machine, or None where it can be tried."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "this machine has no NVIDIA driver (libcuda.so.1 is not found)"
    status = driver.cuInit(0)
    if status != 0:
        return f"the NVIDIA driver of this machine does not start (cuInit returned {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0 or count.value == 0:
        return f"the NVIDIA driver of this machine finds no GPU (cuDeviceGetCount: {status})"
    return None


def not_executed(reason: str) -> str:
    """Return the sentence that tells a user what was not proved, given `runnable_here`'s reason."""
    return (
        f"The engine was built but not executed, since {reason}; the checks ran the ONNX graph "
        "that was handed to the builder, on ONNX Runtime."
    )
