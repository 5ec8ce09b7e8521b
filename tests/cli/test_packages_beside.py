from __future__ import annotations

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
