from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from castline.errors import PluginError
from castline.plugins.headers import HeaderWheel, fetch, header_version, tensorrt_include

VERSION = """
#define TRT_MAJOR_ENTERPRISE 11
#define TRT_MINOR_ENTERPRISE 1
#define TRT_PATCH_ENTERPRISE 0
#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE
"""


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HeaderWheel:
    """A wheel that pip downloads, once, from this folder."""
    file = tmp_path / "some-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("some/include/some.h", "#define SOME")
        archive.writestr("some/code.py", "unwanted")
    content = file.read_bytes()
    file.unlink()

    def download(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        folder = Path(command[command.index("--dest") + 1])
        (folder / file.name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)
    digest = hashlib.sha256(content).hexdigest()
    return HeaderWheel("some==1.0", digest, "some/include", "do without")


def test_fetches_headers_alone_and_once(
    wheel: HeaderWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    include = fetch(wheel, cache)
    assert (include / "some.h").read_text() == "#define SOME"
    assert sorted(file.name for file in cache.rglob("*") if file.is_file()) == ["some.h"]
    monkeypatch.setattr(subprocess, "run", None)
    assert fetch(wheel, cache) == include


def test_refuses_a_wheel_that_somebody_changed(wheel: HeaderWheel, tmp_path: Path) -> None:
    changed = HeaderWheel(wheel.requirement, "0" * 64, wheel.include, wheel.otherwise)
    with pytest.raises(PluginError, match="do not use it, but do without"):
        fetch(changed, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_a_connection_it_says_what_else_to_do(
    wheel: HeaderWheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "a warning\nERROR: no route to host")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(PluginError, match=r"no route to host\): check the connection, or do with"):
        fetch(wheel, tmp_path)


def test_tensorrt_root_is_used_and_its_version_read(tmp_path: Path) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "NvInferVersion.h").write_text(VERSION)
    include = tensorrt_include(tmp_path / "cache", {"TENSORRT_ROOT": str(tmp_path)})
    assert include == tmp_path / "include"
    assert header_version(include) == "11.1.0"


def test_a_tensorrt_root_without_headers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"include/NvInferVersion\.h is not there"):
        tensorrt_include(tmp_path, {"TENSORRT_ROOT": str(tmp_path)})
