"""A plan's folder holds whole files only, is gone on with, and is refused where it does not fit."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from castline.compiler.plan.decisions import PlanIdentity, PlannedBlock, QuantPlan
from castline.compiler.plan.store import PlanStore, identity_sha256, read_plan
from castline.errors import OutputError

RECIPE = {"name": "r", "keep": ["*.0.*"], "description": "Grün"}
BLOCKS = 3
Blocks = Callable[..., PlannedBlock]
Identities = Callable[..., PlanIdentity]
Stores = Callable[..., PlanStore]
Made = Callable[[PlanStore], QuantPlan]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def store(tmp_path: Path, identity: Identities) -> Stores:
    """Return the store of a plan of three blocks."""

    def of(folder: str = "plan", **differing: object) -> PlanStore:
        return PlanStore(tmp_path / folder, identity(**differing), RECIPE, BLOCKS)

    return of


@pytest.fixture
def made(block: Blocks) -> Made:
    """Go on in a store to its end."""

    def of(store: PlanStore) -> QuantPlan:
        store.begin(overwrite=False)
        for index in range(store.finished, BLOCKS):
            store.write(block(index))
        return store.finish()

    return of


def test_a_finished_plan_is_read_as_it_was_written(
    store: Stores, made: Made, block: Blocks
) -> None:
    plan = made(store())
    again = read_plan(store().folder)
    for found in (plan, again):
        assert found.identity == store().identity
        assert found.recipe == RECIPE
        assert [one.name for one in found.blocks] == [f"model.layers.{i}" for i in range(BLOCKS)]
        assert found.blocks[2].linears == block(2).linears


def test_the_same_decisions_are_the_same_bytes(store: Stores, made: Made) -> None:
    made(store("a"))
    made(store("b"))
    found = contents(store("a").folder)
    assert found == contents(store("b").folder)
    assert list(found) == [
        *(f"blocks/{i:03}.{kind}" for i in range(BLOCKS) for kind in ("json", "safetensors")),
        "plan.json",
    ]


def test_the_files_are_strict_json_that_a_person_can_read(store: Stores, made: Made) -> None:
    def no_constants(word: str) -> None:
        raise AssertionError(word)

    made(store())
    for path in store().folder.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        json.loads(text, parse_constant=no_constants)
        assert text.count("\n") > 20
    header = json.loads((store().folder / "plan.json").read_text(encoding="utf-8"))
    assert header["recipe"]["description"] == "Grün"
    assert header["identity_sha256"] == identity_sha256(store().identity)


def test_a_run_goes_on_behind_the_last_whole_block(
    store: Stores, made: Made, block: Blocks
) -> None:
    made(store("whole"))
    begun = store()
    begun.begin(overwrite=False)
    assert begun.finished == 0
    begun.write(block(0))
    (begun.folder / "blocks" / "001.safetensors").write_bytes(b"cut short")
    (begun.folder / "blocks" / "001.json.unfinished").write_bytes(b"cut")
    (begun.work / "states").write_bytes(b"of the run")
    again = store()
    again.begin(overwrite=False)
    assert again.finished == 1
    assert (again.work / "states").is_file()
    made(again)
    assert contents(again.folder) == contents(store("whole").folder)


@pytest.mark.parametrize("moment", range(4))
def test_a_run_killed_while_it_began_goes_on(
    store: Stores, made: Made, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    made(store("whole"))
    steps = []

    def counted(step: Callable[..., object]) -> Callable[..., object]:
        def done(*args: object, **kwargs: object) -> object:
            steps.append(step)
            if len(steps) > moment:
                raise KeyboardInterrupt
            return step(*args, **kwargs)

        return done

    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", counted(Path.mkdir))
        patched.setattr(Path, "replace", counted(Path.replace))
        with pytest.raises(KeyboardInterrupt):
            store().begin(overwrite=False)
    made(store())
    assert contents(store().folder) == contents(store("whole").folder)


def test_a_full_disk_keeps_what_was_finished(
    store: Stores, made: Made, block: Blocks, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store("whole"))
    begun = store()
    begun.begin(overwrite=False)
    begun.write(block(0))

    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match=r"the disk is full. What was finished is kept"):
            begun.write(block(1))
    assert begun.finished == 1
    made(begun)
    assert read_plan(begun.folder).blocks[1].linears == block(1).linears
    assert contents(begun.folder) == contents(store("whole").folder)


@pytest.mark.parametrize(
    ("differing", "named"),
    [
        ({"checkpoint": "d" * 64}, "another checkpoint"),
        ({"bits": 4}, "another recipe"),
        ({"text": "u" * 64}, "another calibration text"),
        ({"version": "2.0"}, "another version of Castline"),
        ({"bits": 4, "text": "u" * 64}, "another recipe, calibration text"),
    ],
)
def test_a_plan_of_something_else_is_refused_and_named(
    store: Stores, made: Made, differing: dict[str, object], named: str
) -> None:
    made(store())
    before = contents(store().folder)
    with pytest.raises(OutputError, match=rf"plan of {named}\. Use --overwrite"):
        store(**differing).begin(overwrite=False)
    assert contents(store().folder) == before


def test_overwrite_replaces_another_plan_and_nothing_else(store: Stores, made: Made) -> None:
    made(store())
    (store().folder / "notes.txt").write_text("mine", encoding="utf-8")
    other = store(bits=4)
    other.begin(overwrite=True)
    assert other.finished == 0
    made(other)
    assert read_plan(other.folder).identity == other.identity
    assert (other.folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_overwrite_goes_on_with_a_plan_of_the_same(store: Stores, block: Blocks) -> None:
    store().begin(overwrite=False)
    store().write(block(0))
    store().begin(overwrite=True)
    assert store().finished == 1


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_something_else_is_never_replaced(store: Stores, overwrite: bool) -> None:
    folder = store().folder
    folder.mkdir()
    (folder / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match=r"holds no quantization plan \(plan.json is missing\)"):
        store().begin(overwrite=overwrite)
    assert list(contents(folder)) == ["thesis.tex"]


def test_a_file_in_the_folders_place_is_refused(store: Stores) -> None:
    store().folder.write_text("x", encoding="utf-8")
    with pytest.raises(OutputError, match=r"plan: cannot be written \(File exists\)"):
        store().begin(overwrite=False)


def test_an_unfinished_plan_is_refused_with_how_far_it_is(store: Stores, block: Blocks) -> None:
    store().begin(overwrite=False)
    store().write(block(0))
    with pytest.raises(OutputError, match=r"not finished, 1 of 3 blocks are. Give the castline"):
        read_plan(store().folder)


@pytest.mark.parametrize("name", ["001.json", "001.safetensors"])
def test_a_finished_plan_with_a_changed_file_is_refused(
    store: Stores, made: Made, name: str
) -> None:
    made(store())
    path = store().folder / "blocks" / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    for use in (read_plan, lambda _folder: made(store())):
        with pytest.raises(OutputError, match=rf"{name}: is not what castline quantize wrote"):
            use(store().folder)


def test_a_finished_plan_without_one_of_its_files_is_refused(store: Stores, made: Made) -> None:
    made(store())
    (store().folder / "blocks" / "002.safetensors").unlink()
    with pytest.raises(OutputError, match=r"002.safetensors: is not what .* is missing"):
        read_plan(store().folder)


def test_a_folder_without_a_plan_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds no quantization plan.*Name a folder"):
        read_plan(tmp_path)


@pytest.mark.parametrize("header", ["", "[]", "{}", '{"format": 1', "\xff"])
def test_a_header_that_is_none_is_told(tmp_path: Path, header: str) -> None:
    (tmp_path / "plan.json").write_text(header, encoding="latin-1")
    with pytest.raises(OutputError, match=r"plan.json: cannot be read as a plan"):
        read_plan(tmp_path)


def test_a_plan_of_another_format_is_told(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(OutputError, match="is of format 1, and this Castline reads 3"):
        read_plan(tmp_path)


def test_identities_differ_where_anything_differs(identity: Identities) -> None:
    differing = [{}, {"checkpoint": "d"}, {"text": "u"}, {"bits": 4}, {"version": "2"}]
    hashes = {identity_sha256(identity(**each)) for each in differing}
    assert len(hashes) == len(differing)
    assert identity_sha256(identity()) == identity_sha256(identity())
