from __future__ import annotations

import os
from pathlib import Path

from castline.plugins.cache import LIBRARY, built_folder, built_libraries, plugin_cache


def test_the_cache_is_where_the_desktop_keeps_caches() -> None:
    assert plugin_cache({"XDG_CACHE_HOME": "/var/c"}) == Path("/var/c/castline/plugins")
    assert plugin_cache({}) == Path.home() / ".cache/castline/plugins"


def test_the_newest_library_of_the_sources_is_first(tmp_path: Path) -> None:
    old, new, other = (
        built_folder(sources, configuration, tmp_path) / LIBRARY
        for sources, configuration in (("a" * 64, "1" * 64), ("a" * 64, "2" * 64), ("b" * 64, "1"))
    )
    for seconds, file in enumerate((old, new, other)):
        file.parent.mkdir()
        file.touch()
        os.utime(file, (seconds, seconds))
    assert built_libraries("a" * 64, tmp_path) == (new, old)
    assert built_libraries("c" * 64, tmp_path) == ()
