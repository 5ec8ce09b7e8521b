"""The options of targets and engines, which compile and build share."""

from __future__ import annotations

from typing import Any

import pytest

from castline.compiler.targets.tensorrt.engine_options import EngineOptions
from castline.compiler.targets.tensorrt.shape_flags import Shapes
from castline.compiler.targets.tensorrt.sizes import Sizes

COMPILE = ("compile", "m", "-o", "out", "-t", "tensorrt-rtx")


def test_trtexecs_names_and_ours_say_the_same(run: Any, pipeline: Any) -> None:
    for names in (
        ("--minShapes", "--optShapes", "--maxShapes", "--memPoolSize", "--computeCapabilities"),
        ("--min-shapes", "--opt-shapes", "--max-shapes", "--mem-pool-size", "--compute-capability"),
    ):
        low, likely, high, pool, gpus = names
        result = run(
            *COMPILE,
            *("--profile=0", f"{low}=x:1x1", f"{likely}=x:1x2", f"{high}=x:1x3"),
            *("--profile=1", f"{low}=x:1x1", f"{likely}=x:1x1", f"{high}=x:4x1"),
            *(f"{pool}=workspace:2", f"{gpus}=8.9,12.0", gpus, "7.5"),
        )
        assert result.exit_code == 0, result.stderr
        assert pipeline.asked["options"].engine == EngineOptions(
            shapes=(
                {"x": Shapes((1, 1), (1, 2), (1, 3))},
                {"x": Shapes((1, 1), (1, 1), (4, 1))},
            ),
            compute_capabilities=("8.9", "12.0", "7.5"),
            workspace=2 * 2**20,
        )


def test_underscores_are_taken_as_tensorrt_llm_writes_them(run: Any, pipeline: Any) -> None:
    result = run(*COMPILE, "--max_batch_size=8", "--max_input_len=64", "--max_seq_len", "256")
    assert result.exit_code == 0
    assert pipeline.asked["options"].engine.sizes == Sizes(8, 64, 256)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--profile=1", "--optShapes=x:1"), "expected 0 to 0 in order"),
        (("--profile=0",), "--profile numbers the shapes behind it, and none were given"),
        (("--memPoolSize=dlaSRAM:1",), "expected workspace:SIZE"),
        (("--compute-capability=sm89",), "'sm89': expected two numbers with a dot"),
        (("--compute-capability=8.9,,7",), "expected two numbers with a dot"),
    ],
)
def test_what_cannot_be_read_is_named(
    run: Any, pipeline: Any, arguments: tuple[str, ...], words: str
) -> None:
    result = run(*COMPILE, *arguments)
    assert (result.exit_code, pipeline.asked) == (1, {})
    assert words in " ".join(result.stderr.split())


def test_sizes_that_do_not_fit_are_an_error_in_words(run: Any, pipeline: Any) -> None:
    result = run(*COMPILE, "--max-input-len=9", "--max-seq-len=8")
    assert (result.exit_code, pipeline.asked) == (1, {})
    assert "error: --max-input-len 9 is above --max-seq-len 8" in result.stderr


@pytest.mark.parametrize(("size", "expected"), [("1.5G", 3 << 29), ("7K", 7168), ("9b", 9)])
def test_sizes_of_memory_have_units(run: Any, pipeline: Any, size: str, expected: int) -> None:
    assert run(*COMPILE, f"--memPoolSize=workspace:{size}").exit_code == 0
    assert pipeline.asked["options"].engine.workspace == expected


def test_a_gpu_that_is_named_twice_counts_once(run: Any, pipeline: Any) -> None:
    assert run(*COMPILE, "--compute-capability=8.9, 12.0,8.9").exit_code == 0
    assert pipeline.asked["options"].engine.compute_capabilities == ("8.9", "12.0")
