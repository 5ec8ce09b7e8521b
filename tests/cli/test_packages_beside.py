from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from castline.cli.package import Package
from castline.cli.packages_beside import beside, packed_beside, require_packable
from castline.compiler.package.manifest import verify
from castline.compiler.package.verification import verified
from castline.errors import OutputError


def test_packages_stand_beside_the_output(packable: Path) -> None:
    for overwrite in (False, True):
        made = packed_beside(packable, (Package.TRITON, Package.TAR), overwrite=overwrite)
        assert made == (
            packable.with_name("tiny.triton") / "tiny" / "1",
            packable.with_name("tiny.tar"),
        )
        assert [one.differences for place in made for one in verified(place)] == [(), ()]
    assert verify(packable) == []


def test_what_cannot_be_packed_is_told_before(packable: Path) -> None:
    require_packable(packable, "onnxruntime", (Package.TRITON, Package.TAR), overwrite=False)
    require_packable(packable, "tensorrt-rtx", (Package.TAR,), overwrite=False)
    with pytest.raises(OutputError, match="another product"):
        require_packable(packable, "tensorrt-rtx", (Package.TRITON,), overwrite=False)
    with pytest.raises(OutputError, match="cannot be the name of a model"):
        require_packable(packable.with_name("a b"), "onnx", (Package.TRITON,), overwrite=False)
    beside(packable, Package.TAR).touch()
    with pytest.raises(OutputError, match=r"tiny\.tar: exists already"):
        require_packable(packable, "onnx", (Package.TAR,), overwrite=False)
    require_packable(packable, "onnx", (Package.TAR,), overwrite=True)


def test_the_command_asks_before_and_packs_after(run: Any, pipeline: Any, packable: Path) -> None:
    options = ("-o", packable, "--package", "tar")
    result = run("compile", "model.gguf", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"packed: {packable}.tar" in result.stdout
    pipeline.asked = {}
    result = run("compile", "model.gguf", *options)
    assert (result.exit_code, pipeline.asked) == (1, {})
    assert "tiny.tar: exists already" in result.stderr


@pytest.mark.usefixtures("pipeline")
@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_packing_says_that_the_output_stays_and_how_to_pack_it(
    run: Any, packable: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    def interrupted(*_arguments: Any, **_options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("castline.compiler.package.archive.write_archive", interrupted)
    options = ("-o", packable, "--package", "triton", "--package", "tar")
    result = run("compile", "model.gguf", *options, *(["--overwrite"] if overwrite else []))
    assert result.exit_code == 130
    again = " --overwrite" if overwrite else ""
    assert result.stderr == (
        f"error: interrupted: {packable} is complete and stays; not made: {packable}.tar. To "
        f"pack it:\n  castline package {packable} -p tar -o {packable}.tar{again}\n"
    )
    assert verified(packable.with_name("tiny.triton"))[0].differences == ()


@pytest.mark.usefixtures("pipeline")
def test_a_full_disk_at_packing_is_told_with_what_stays(
    run: Any, packable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tarfile.TarFile.addfile", full)
    result = run("compile", "model.gguf", "-o", packable, "--package", "tar")
    assert result.exit_code == 1
    first, second, command = result.stderr.splitlines()
    assert "No space left on device" in first
    assert second == f"{packable} is complete and stays; not made: {packable}.tar. To pack it:"
    assert command == f"  castline package {packable} -p tar -o {packable}.tar"
    assert verify(packable) == []
    monkeypatch.undo()  # there is room again
    assert run(*command.split()[1:]).exit_code == 0
    assert verified(packable.with_name("tiny.tar"))[0].differences == ()
