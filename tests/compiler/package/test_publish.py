from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from castline.compiler.package.manifest import write_manifest
from castline.compiler.package.publish import publishing, require_outside
from castline.errors import OutputError, TargetError

DEAD = 2**22 + 1  # above Linux's largest process number
WAITING = """
import sys, time
from pathlib import Path
from castline.compiler.package.publish import publishing
with publishing(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "model.onnx").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def publish(output: Path, text: str = "new", *, overwrite: bool = False) -> None:
    with publishing(output, overwrite=overwrite) as folder:
        (folder / "model.onnx").write_text(text)
        write_manifest(folder, {})


def write_and_fail(output: Path, failure: BaseException) -> None:
    with publishing(output, overwrite=False) as folder:
        (folder / "weights").write_bytes(b"\x00" * 1000)
        raise failure


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_output_appears_whole_and_alone(tmp_path: Path) -> None:
    with publishing(tmp_path / "out", overwrite=False) as folder:
        (folder / "model.onnx").write_text("whole")
        assert folder.parent == tmp_path
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "model.onnx").read_text() == "whole"


def test_missing_parents_are_made(tmp_path: Path) -> None:
    publish(tmp_path / "a" / "b" / "out")
    assert names(tmp_path / "a" / "b") == ["out"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_not_even_made_parents(
    tmp_path: Path, failure: type[BaseException]
) -> None:
    with pytest.raises(failure):
        write_and_fail(tmp_path / "a" / "out", failure())
    assert names(tmp_path) == []


def test_an_existing_output_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    publish(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="exists already"):
        publish(tmp_path / "out")
    assert (tmp_path / "out" / "model.onnx").read_text() == "old"


def test_overwriting_swaps_the_old_for_the_new(tmp_path: Path) -> None:
    publish(tmp_path / "out", "old")
    publish(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "model.onnx").read_text() == "new"
    assert names(tmp_path) == ["out"]


def test_a_failed_overwrite_keeps_the_old(tmp_path: Path) -> None:
    publish(tmp_path / "out", "old")
    with pytest.raises(ValueError, match="no"), publishing(tmp_path / "out", overwrite=True):
        raise ValueError("no")
    assert (tmp_path / "out" / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_a_swap_that_fails_half_way_puts_the_old_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(tmp_path / "out", "old")
    rename = Path.rename

    def fails_for_the_new(path: Path, target: Path) -> Path:
        if ".partial-" in path.name:
            raise PermissionError(errno.EPERM, "no")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new)
    with pytest.raises(PermissionError):
        publish(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["out"]


def test_what_castline_did_not_write_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").touch()
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "manifest.json").write_text("{}")
    for name in ("thesis", "page"):
        with pytest.raises(OutputError, match="Castline did not write it"):
            publish(tmp_path / name, overwrite=True)
    assert names(tmp_path / "thesis") == ["chapter1.tex"]


def test_an_empty_folder_may_be_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    publish(tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_files_links_and_roots_are_no_outputs(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for output, words in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "link", "is a link"),
        (Path("/"), "cannot be an output"),
        (tmp_path / "file" / "out", "is not a folder"),
    ):
        with pytest.raises(OutputError, match=words):
            publish(output, overwrite=True)


def test_a_parent_that_may_not_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match=r"may not be read and written"):
        publish(tmp_path / "out")


def test_someone_who_published_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="exists already"),
        publishing(tmp_path / "out", overwrite=False),
    ):
        (tmp_path / "out").mkdir()
    assert names(tmp_path) == ["out"]


def test_a_full_disk_says_what_was_written_and_what_is_free(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(
        OutputError, match=r"No space left on device: 1,000 bytes were written.*free"
    ):
        write_and_fail(tmp_path / "out", full)
    assert names(tmp_path) == []


def test_other_failures_of_the_system_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), publishing(tmp_path / "out", overwrite=False):
        (tmp_path / "none").read_bytes()


def test_errors_name_the_output_and_not_the_hidden_folder(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with (
        pytest.raises(TargetError, match=f"^{output}/model.onnx: no$"),
        publishing(output, overwrite=False) as folder,
    ):
        raise TargetError(f"{folder}/model.onnx: no")


@pytest.mark.parametrize("name", ["x" * 300, "x" * 250, "x" * 300 + "/out"])
def test_a_name_that_is_too_long_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        publish(tmp_path / name)
    assert names(tmp_path) == []


def test_leftovers_of_dead_runs_go_and_those_of_live_runs_stay(tmp_path: Path) -> None:
    for name in (f".out.partial-{DEAD}", f".out.partial-{os.getppid()}", f".other.partial-{DEAD}"):
        (tmp_path / name).mkdir()
    (tmp_path / f".out.partial-{os.getpid()}").mkdir()
    publish(tmp_path / "out")
    assert names(tmp_path) == sorted(
        [f".out.partial-{os.getppid()}", f".other.partial-{DEAD}", "out"]
    )


def test_an_old_output_that_a_killed_swap_put_aside_comes_back(tmp_path: Path) -> None:
    publish(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / f".out.replaced-{DEAD}")
    with pytest.raises(OutputError, match="exists already"):
        publish(tmp_path / "out", "new")
    assert (tmp_path / "out" / "model.onnx").read_text() == "old"
    assert names(tmp_path) == ["out"]


def started(output: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    with started(tmp_path / "out") as process:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    assert names(tmp_path) == []


def test_what_a_killed_run_left_goes_with_the_next(tmp_path: Path) -> None:
    with started(tmp_path / "out") as process:
        process.kill()
        process.wait(timeout=20)
    assert names(tmp_path) == [f".out.partial-{process.pid}"]
    publish(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_an_output_inside_a_described_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    for inside in ("out/new", "out/a/b", "link/new"):
        with pytest.raises(OutputError, match="whose manifest would not list it"):
            require_outside(tmp_path / inside, tmp_path / "out")
    require_outside(tmp_path / "out", tmp_path / "out")
    require_outside(tmp_path / "out2" / "new", tmp_path / "out")
