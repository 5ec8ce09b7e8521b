from __future__ import annotations

from pathlib import Path

import pytest

from castline.cli import machine
from castline.cli.machine import LIBRARIES, Library, cuda_compiler, free_space, gpus, hub_cache


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_library_is_found_under_any_of_its_names() -> None:
    assert Library(("numpy",), "", "").version() is not None
    version = Library(("no-such-distribution", "numpy"), "", "").version()
    assert version is not None
    assert version.endswith("(numpy)")
    assert Library(("no-such-distribution",), "", "").version() is None


def test_every_library_says_what_is_lost_and_how_to_get_it() -> None:
    assert all(library.without_it and library.install for library in LIBRARIES)


def test_gpus_are_what_the_driver_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == ()
    tool(tmp_path, "nvidia-smi", "echo 'NVIDIA L4, 8.9, 23034 MiB, 580.95'")
    (gpu,) = gpus()
    assert (gpu.name, gpu.compute_capability, gpu.driver) == ("NVIDIA L4", "8.9", "580.95")
    tool(tmp_path, "nvidia-smi", 'echo "couldn\'t communicate with the driver"; exit 9')
    assert gpus() == ()


def test_nvcc_is_shown_with_its_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cuda_compiler() is None
    tool(tmp_path, "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'")
    assert cuda_compiler() == f"{tmp_path}/nvcc: Cuda compilation tools, release 13.0, V13.0.88"


def test_the_hub_cache_follows_the_environment() -> None:
    assert hub_cache({"HF_HUB_CACHE": "/a"}) == Path("/a")
    assert hub_cache({"HF_HOME": "/b"}) == Path("/b/hub")
    assert hub_cache({"XDG_CACHE_HOME": "/c"}) == Path("/c/huggingface/hub")
    assert hub_cache({}) == Path.home() / ".cache/huggingface/hub"


def test_free_space_of_a_folder_to_come_is_that_of_its_disk(tmp_path: Path) -> None:
    assert free_space(tmp_path / "not" / "there") > 0
    assert machine.free_space(Path("not/there")) > 0
