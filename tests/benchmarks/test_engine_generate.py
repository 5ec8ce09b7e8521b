"""Check how engines and torch are compared, and what is kept where nothing could be measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOLLOW = tuple(range(32))
WRONG = [99] * 32


def run(side: str, turn: int, prefill: float, decode: float, tokens: int = 128) -> dict[str, Any]:
    speed = {"prefill": prefill, "decode": decode}
    return {"side": side, "turn": turn, "prompt_tokens": tokens, **speed}


def test_speeds_are_medians_by_prompt() -> None:
    from engine_generate import speeds

    runs = [run("a", 0, one, 10 * one) for one in (1, 5, 3)]
    runs += [run("a", 1, 100, 50, tokens=1024), run("b", 0, 7, 7)]
    assert speeds(runs, "a") == {
        "128": {"prefill": 3, "decode": 30},
        "1024": {"prefill": 100, "decode": 50},
    }


def test_a_slow_turn_falls_out_of_the_ratio() -> None:
    from engine_generate import ratios

    runs = [
        run(side, turn, speed * slow, speed * slow * 2)
        for turn, slow in enumerate((1.0, 0.1, 1.0))
        for side, speed in (("a", 30.0), ("b", 20.0))
    ]
    assert ratios(runs, "a", "b") == {"128": {"prefill": 1.5, "decode": 1.5}}
    assert ratios(runs, "b", "a") == {"128": {"prefill": 0.667, "decode": 0.667}}
    assert ratios([*runs, run("c", 3, 1, 1)], "c", "a") == {}, "never in one turn"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a bench whose engines are built in no time and whose children do nothing.

    `chosen` is what sides choose, `graphs` what engines' graphs do, by name; the others choose
    torch's tokens. `failing` are sides whose child fails. Children are kept in `asked`.
    """
    import engine_generate
    from engine_sides import Form
    from process import BenchmarkError

    class Fake(engine_generate.Bench):
        asked: list[str]
        chosen: dict[str, list[int]]
        graphs: dict[str, list[int]]
        failing: tuple[str, ...]

        def child(self, side: str, task: Path) -> dict[str, Any]:
            assert json.loads(task.read_text())["follow"] == list(FOLLOW)
            self.asked.append(side)
            if side in self.failing:
                raise BenchmarkError("exit 1: no room")
            runs = [{"prompt_tokens": 128, "prefill": 1000.0, "decode": 100.0}]
            costs = {"load_s": 1.0, "first_s": 2.0, "gpu_mb": 300.0}
            return {"followed": self.chosen.get(side, list(FOLLOW)), "runs": runs, **costs}

        def graph(self, side: str, task: Path) -> list[int]:
            assert json.loads(task.read_text())["repetitions"] == 0
            return self.graphs.get(side, list(FOLLOW))

        def reference(self, task: Path) -> list[int]:
            assert json.loads(task.read_text())["follow"] == []
            return list(FOLLOW)

    def made(*, capability: str | None = "8.9", **given: Any) -> Any:
        form = Form("tensorrt-rtx", capability, 128, 192)
        found = Fake(tmp_path / "model", form, tmp_path / "out", 1, {})
        filled = {"asked": [], "chosen": {}, "graphs": {}, "failing": (), **given}
        for name, value in filled.items():
            object.__setattr__(found, name, value)
        return found

    def built(name: str, *_: Any) -> Any:
        return {"engine_mb": 100.0 + len(name), "build_s": 10.0}

    monkeypatch.setattr(engine_generate, "build", built)
    return made


def compared(bench: Any, turns: int = 2) -> tuple[dict[str, Any], Any]:
    """Prepare and, on a GPU, measure; return what is kept by side, and the findings."""
    from engine_generate import measure, prepare, sides_kept
    from token_speed import Task

    task, found = prepare(bench, Task(((1, 2),), 4, 1))
    if bench.gpu:
        measure(bench, task.write(bench.folder / "task.json"), found, turns)
    kept = sides_kept(found, task.follow, gpu=bench.gpu)
    return {side["side"]: side for side in kept}, found


def test_each_side_is_told_as_a_multiple_of_torch_and_of_native_int4(bench: Any) -> None:
    from engine_generate import BASES, COMPILED, TORCH
    from engine_sides import NATIVE, OFFSETS

    kept, found = compared(bench())
    assert not found.wrong
    assert set(kept[OFFSETS]["ratios"]) == set(BASES) == {TORCH, COMPILED, NATIVE}
    assert kept[OFFSETS]["ratios"][NATIVE] == {"128": {"prefill": 1.0, "decode": 1.0}}
    assert kept[OFFSETS]["speeds"] == {"128": {"prefill": 1000, "decode": 100}}
    assert (kept[OFFSETS]["load_s"], kept[OFFSETS]["gpu_mb"]) == (1, 300)
    assert (kept[OFFSETS]["as_torch"], kept[OFFSETS]["as_graph"]) == (1, 1)
    assert NATIVE not in kept[NATIVE]["ratios"]


def test_the_order_of_sides_turns_round(bench: Any) -> None:
    one = bench()
    compared(one)
    assert len(one.asked) == 12
    assert one.asked[6:] == one.asked[5::-1]


def test_a_fast_engine_that_answers_nonsense_does_not_count(bench: Any) -> None:
    from engine_sides import NATIVE, OFFSETS

    one = bench(chosen={NATIVE: WRONG})
    kept, found = compared(one)
    assert "its graph on ONNX Runtime's token at 0 % of 32" in found.wrong[NATIVE]
    assert kept[NATIVE]["left_out"] == found.wrong[NATIVE]
    assert "speeds" not in kept[NATIVE]
    assert "ratios" not in kept[NATIVE]
    assert NATIVE not in kept[OFFSETS]["ratios"], "nothing is a multiple of it"
    assert one.asked.count(NATIVE) == 1


def test_few_bits_may_choose_other_tokens_than_torch_but_not_than_their_graph(bench: Any) -> None:
    from engine_sides import FLOAT, NATIVE

    lossy = {NATIVE: WRONG}
    kept, found = compared(bench(chosen=lossy, graphs=lossy))
    assert not found.wrong
    assert (kept[NATIVE]["as_torch"], kept[NATIVE]["as_graph"]) == (0, 1)
    _, found = compared(bench(chosen={FLOAT: WRONG}))
    assert found.wrong[FLOAT].startswith("chose torch's token at 0 %")


def test_compiled_torch_must_choose_as_torch_does(bench: Any) -> None:
    from engine_generate import COMPILED
    from engine_sides import FLOAT

    kept, found = compared(bench(chosen={COMPILED: WRONG}))
    assert set(found.wrong) == {COMPILED}
    assert COMPILED not in kept[FLOAT]["ratios"]


def test_a_side_that_fails_is_left_out_with_the_reason(bench: Any) -> None:
    from engine_generate import COMPILED
    from engine_sides import NATIVE

    kept, found = compared(bench(failing=(COMPILED,)))
    assert found.wrong == {COMPILED: "exit 1: no room"}
    assert kept[COMPILED] == {"side": COMPILED, "left_out": "exit 1: no room"}
    assert "speeds" in kept[NATIVE]


def test_an_engine_that_is_not_built_leaves_the_others(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine_generate
    from engine_sides import NATIVE, OFFSETS
    from process import BenchmarkError

    def failing(name: str, *_: Any) -> Any:
        if name == OFFSETS:
            raise BenchmarkError("exit 1: no plugin library")
        return {"engine_mb": 1.0, "build_s": 1.0}

    monkeypatch.setattr(engine_generate, "build", failing)
    one = bench()
    kept, found = compared(one)
    assert found.wrong == {OFFSETS: "exit 1: no plugin library"}
    assert OFFSETS not in one.asked
    assert "speeds" in kept[NATIVE]


def test_without_a_gpu_nothing_is_measured_and_graphs_are_compared(bench: Any) -> None:
    from engine_generate import COMPILED, TORCH, UNMEASURED, shown
    from engine_sides import FLOAT, NATIVE, SIDES

    half = [*range(16), *[99] * 16]
    one = bench(capability=None, graphs={NATIVE: half})
    kept, found = compared(one)
    assert not found.wrong
    assert one.asked == []
    assert {side["left_out"] for side in kept.values()} == {UNMEASURED}
    assert list(kept) == [*SIDES, TORCH, COMPILED]
    assert (kept[NATIVE]["graph_as_torch"], kept[FLOAT]["graph_as_torch"]) == (0.5, 1)
    assert kept[FLOAT]["build"]["build_s"] == 10
    text = shown(list(kept.values()), [128])
    assert "ratio" not in text
    assert text.splitlines()[3].split()[-7:] == ["-", "-", "50%", "-", "-", "-", "-"]


def test_without_a_gpu_a_float_graph_that_differs_from_torch_is_wrong(bench: Any) -> None:
    from engine_sides import FLOAT

    _, found = compared(bench(capability=None, graphs={FLOAT: WRONG}))
    assert list(found.wrong) == [FLOAT]
    assert found.wrong[FLOAT].startswith("its graph on ONNX Runtime chose torch's token at 0 %")


def test_the_tables_hold_speeds_and_ratios(bench: Any) -> None:
    from engine_generate import shown

    kept, _ = compared(bench())
    sides, _, multiples = shown(list(kept.values()), [128]).partition("\n\n")
    assert sides.splitlines()[1].split()[-2:] == ["1000", "100"]
    assert all(line.split()[-2:] == ["1.00", "1.00"] for line in multiples.splitlines()[1:])


@pytest.fixture
def no_gpu(bench: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the program run with the fake bench, and keep its result in the folder returned."""
    import engine_generate
    import record

    monkeypatch.setattr(engine_generate, "device_capability", lambda: None)
    monkeypatch.setattr(engine_generate, "target_here", lambda **_: "tensorrt-rtx")
    monkeypatch.setattr(engine_generate, "prompts_of", lambda _, lengths: ((1,),) * len(lengths))
    monkeypatch.setattr(engine_generate, "Bench", lambda *_: bench(capability=None))
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    return tmp_path


def test_the_result_says_that_nothing_was_measured(no_gpu: Path, capsys: Any) -> None:
    import engine_generate

    engine_generate.main(["--model", str(no_gpu / "mine")])
    [path] = no_gpu.glob("engine-generate-mine-*.json")
    kept = json.loads(path.read_text())
    assert kept["gpu"] == "unmeasured: no GPU"
    assert kept["reference"] == "torch, float32, processor"
    assert kept["runs"] == kept["costs"] == []
    assert all(side["left_out"] == "unmeasured: no GPU" for side in kept["sides"])
    assert "Speeds are unmeasured: no GPU. Run this where there is one" in capsys.readouterr().out


def test_without_any_tensorrt_the_way_out_is_told(
    no_gpu: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import engine_generate

    monkeypatch.setattr(engine_generate, "target_here", lambda **_: None)
    with pytest.raises(SystemExit):
        engine_generate.main(["--model", str(no_gpu / "mine")])
    assert "pip install 'castline[tensorrt-rtx]'" in capsys.readouterr().err


def test_commands_name_what_runs_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import engine_generate
    from engine_sides import FLOAT, OFFSETS, Form

    commands: list[str] = []

    def measured(command: list[str], environment: dict[str, str]) -> Any:
        assert environment == {"A": "1"}
        commands.append(" ".join(command[1:]).replace(f"{tmp_path}/", ""))
        found = {"followed": [1], "greedy": [2]}
        return type("Cost", (), {"stdout": f"a word before\n{json.dumps(found)}\n"})

    monkeypatch.setattr(engine_generate, "run_measured", measured)
    monkeypatch.setattr(engine_generate, "HERE", Path("here"))
    form, task = Form("tensorrt-rtx", "8.9", 128, 192), tmp_path / "task.json"
    one = engine_generate.Bench(tmp_path / "model", form, tmp_path / "out", 3, {"A": "1"})
    one.child(FLOAT, task)
    assert one.graph(OFFSETS, task) == [1]
    one.child(engine_generate.TORCH, task)
    one.child(engine_generate.COMPILED, task)
    assert one.reference(task) == [2]
    assert commands == [
        "here/token_speed.py engine out/3 task.json --threads 3",
        "here/token_speed.py graph out/0 task.json --threads 3",
        "here/peers/torch_generate.py model task.json --device cuda",
        "here/peers/torch_generate.py model task.json --device cuda --static 192",
        "here/peers/torch_generate.py model task.json --device cuda",
    ]
