from __future__ import annotations

from pathlib import Path

from castline.plugins.sources import ROOT, native_sources, source_hash


def test_kernels_plugin_classes_and_the_build_itself_are_sources_and_python_is_not() -> None:
    names = {file.relative_to(ROOT).as_posix() for file in native_sources()}
    assert {"CMakeLists.txt", "common/kernels.h", "tensorrt/plugin.cpp"} <= names
    assert not [name for name in names if name.endswith(".py")]


def test_the_hash_changes_with_a_content_and_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "a.cu").write_text("one")
    before = source_hash(tmp_path)
    (tmp_path / "notes.md").write_text("not a source")
    assert source_hash(tmp_path) == before
    (tmp_path / "a.cu").rename(tmp_path / "b.cu")
    renamed = source_hash(tmp_path)
    (tmp_path / "b.cu").write_text("two")
    assert len({before, renamed, source_hash(tmp_path)}) == 3
