from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from castline.errors import OutputError, PluginError
from castline.plugins.cache import LIBRARY
from castline.plugins.library import VARIABLE, find_library, read_library, register, verify
from castline.plugins.sources import source_hash

OTHER = "0" * 64
Compile: TypeAlias = Callable[..., Path]


def test_reads_what_a_library_says_of_itself(tmp_path: Path, stand_in_library: Compile) -> None:
    path = stand_in_library(tmp_path / LIBRARY, sources="abc")
    library = read_library(path)
    assert library.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (library.layout_version, library.architectures) == (1, ("80", "90a"))
    assert (library.ops, library.source_hash) == (("PackedLinearW4A16",), "abc")
    assert (library.tensorrt_headers, library.castline) == ("10.14.1", "0.0.9")


def test_the_variable_goes_before_the_package_and_the_package_before_the_cache(
    tmp_path: Path, stand_in_library: Compile
) -> None:
    sources = source_hash()
    places = (
        tmp_path / "named.so",
        tmp_path / "lib" / LIBRARY,
        tmp_path / "castline" / "plugins" / f"{sources[:16]}-1" / LIBRARY,
    )
    named, shipped, cached = (stand_in_library(path, sources=sources) for path in places)
    cache = {"XDG_CACHE_HOME": str(tmp_path)}
    assert find_library({**cache, VARIABLE: str(named)}, shipped=shipped).path == named
    assert find_library(cache, shipped=shipped).path == shipped
    assert find_library(cache, shipped=tmp_path / "absent").path == cached


def test_says_how_to_build_one_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="run castline plugins build"):
        find_library({"XDG_CACHE_HOME": str(tmp_path)}, shipped=tmp_path / "absent")


def test_refuses_a_library_of_other_sources_or_of_another_layout(
    tmp_path: Path, stand_in_library: Compile
) -> None:
    other = stand_in_library(tmp_path / "other.so", sources=OTHER)
    with pytest.raises(PluginError, match=r"other sources \(by Castline 0\.0\.9.*unset CASTLINE_P"):
        find_library({VARIABLE: str(other)})
    with pytest.raises(PluginError, match=r"absent\.so, which is no file: set it to"):
        find_library({VARIABLE: str(tmp_path / "absent.so")})
    later = stand_in_library(tmp_path / "later.so", sources=source_hash(), layout_version=7)
    with pytest.raises(PluginError, match="packed layout 7; this Castline has 1"):
        find_library({"XDG_CACHE_HOME": str(tmp_path)}, shipped=later)


def test_refuses_what_is_missing_and_what_is_no_plugin_library(
    tmp_path: Path, stand_in_library: Compile
) -> None:
    with pytest.raises(PluginError, match="cannot be loaded"):
        read_library(tmp_path / "absent.so")
    (tmp_path / "text.so").write_text("no machine code")
    with pytest.raises(PluginError, match=r"invalid ELF header|file too short"):
        read_library(tmp_path / "text.so")
    foreign = stand_in_library(tmp_path / "foreign.so", sources="", exports="int one = 1;")
    with pytest.raises(PluginError, match="no plugin library of Castline"):
        read_library(foreign)


def test_a_library_that_travelled_is_checked_before_it_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / LIBRARY
    with pytest.raises(OutputError, match="copy the whole folder"):
        verify(path, OTHER)
    path.write_text("not even machine code")
    verify(path, hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(OutputError, match="another library or was damaged"):
        verify(path, OTHER)


@dataclass
class Registry:
    """TensorRT's registry, as far as it is used."""

    takes: bool = True
    names: tuple[str, ...] = ()
    loaded: list[str] = field(default_factory=list)

    @property
    def all_creators(self) -> list[Any]:
        return [SimpleNamespace(name=name) for name in self.names]

    def load_library(self, path: str) -> object | None:
        self.loaded.append(path)
        if not self.takes:
            return None
        self.names = ("PackedLinearW4A16",)
        return object()


def tensorrt(registry: Registry) -> Any:
    return SimpleNamespace(__version__="12.0", get_plugin_registry=lambda: registry)


def test_registers_a_library_once(tmp_path: Path, stand_in_library: Compile) -> None:
    path = stand_in_library(tmp_path / LIBRARY, sources="")
    registry = Registry()
    register(path, tensorrt(registry))
    register(path, tensorrt(registry))
    assert registry.loaded == [str(path)]


def test_says_which_versions_do_not_fit_when_tensorrt_refuses(
    tmp_path: Path, stand_in_library: Compile
) -> None:
    path = stand_in_library(tmp_path / LIBRARY, sources="")
    with pytest.raises(
        PluginError, match=r"TensorRT 12\.0 did not take.*headers of TensorRT 10\.14"
    ):
        register(path, tensorrt(Registry(takes=False)))
