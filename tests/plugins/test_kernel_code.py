"""Check the machine code that nvcc makes of our kernels: no spills, the right instructions."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from castline.plugins.machine_code import Function, functions

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
DISASSEMBLER = "nvidia-cuda-nvdisasm"
LIBRARY = {"float_gemm.cu", "integer_gemm.cu", "hopper_float_gemm.cu", "hopper_integer_gemm.cu"}
FLAGS = (
    *("-std=c++17", "-O3", "-cubin", "-Xptxas", "-v"),
    *("-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"),
)
SPILLED = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")

# Compute capabilities whose code is made; the first by default, the rest under `slow`.
ARCHITECTURES = ("90a", "80", "86", "89", "100", "120")
# The matrix instruction of a product, by its source.
MATRIX = {"linear_w4a16": ("HMMA", "16816"), "linear_w8a8": ("IMMA", "16832")}
STREAMED = ("128", "NA")  # 16 bytes that are not kept in the cache of a multiprocessor

# Instructions of a round of stream_decode for 8 weights of a lane, at up to 8 tokens and four
# strips for each block of threads, without what is done where groups end. An H200 that reads memory
# as fast as it copies has time for about 31.
MOST_FOR_8_WEIGHTS = {
    "WeightOnlyINS_4HalfELb0E": 15.0,  # Lb0: groups of more than 32 input channels
    "WeightOnlyINS_8BFloat16ELb0E": 16.0,
    "IntegerILi4ELNS_6GroupsE0E": 6.5,  # GroupsE0: weights without groups
    "IntegerILi8E": 4.5,
}
ROOM = {"100": 1.6, "120": 1.6}  # where the compiler picks other instructions for the same
FOUR_STRIPS_ONE_TILE = "EELi4ELi1E"
LANE_BYTES = 16


def disassembler() -> str | None:
    """Return the path of nvdisasm: of the CUDA toolkit, or of its package for pip."""
    if found := shutil.which("nvdisasm"):
        return found
    try:
        files = importlib.metadata.files(DISASSEMBLER) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "nvdisasm"), None)


@dataclass(frozen=True)
class Compiled:
    """What became of one source: what ptxas says of it, and its functions."""

    source: Path
    architecture: str
    report: str
    functions: tuple[Function, ...]


def sources() -> list[Path]:
    return sorted(file for file in PLUGINS.glob("*/*.cu") if file.name not in LIBRARY)


def compile_kernels(source: Path, architecture: str, folder: Path) -> Compiled:
    cubin = folder / f"{source.parent.name}-{source.stem}.cubin"
    made = [f"-arch=sm_{architecture}", f"-I{PLUGINS / 'common'}", str(source), "-o", str(cubin)]
    run = subprocess.run(["nvcc", *FLAGS, *made], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    tool = disassembler()
    if tool is None:
        return Compiled(source, architecture, run.stderr, ())
    code = subprocess.run([tool, "-c", str(cubin)], capture_output=True, text=True, check=True)
    return Compiled(source, architecture, run.stderr, functions(code.stdout))


@pytest.fixture(
    scope="module",
    params=[ARCHITECTURES[0]]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES[1:]],
)
def compiled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> list[Compiled]:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    folder = tmp_path_factory.mktemp(f"sm_{request.param}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: compile_kernels(file, request.param, folder), sources()))


@pytest.fixture
def disassembled(compiled: list[Compiled]) -> list[Compiled]:
    if disassembler() is None:
        pytest.skip(f"nvdisasm is not installed (pip install {DISASSEMBLER})")
    return compiled


def products(compiled: list[Compiled]) -> Iterator[tuple[str, Function]]:
    """Yield the folder and the kernels of the products."""
    for each in compiled:
        folder = each.source.parent.name
        if folder in MATRIX:
            yield from ((folder, kernel) for kernel in each.functions)


def test_no_kernel_spills_registers(compiled: list[Compiled]) -> None:
    spills = {each.source.name: SPILLED.findall(each.report) for each in compiled}
    kernels = [(name, spill) for name, found in spills.items() for spill in found]
    assert kernels, "no kernels were compiled"
    assert [found for found in kernels if found[1] != ("0", "0", "0")] == []


def test_no_kernel_touches_local_memory(disassembled: list[Compiled]) -> None:
    touching = [
        kernel.name for each in disassembled for kernel in each.functions if kernel.local_memory()
    ]
    assert touching == []


def test_products_run_on_matrix_instructions(disassembled: list[Compiled]) -> None:
    found = list(products(disassembled))
    assert found
    assert [kernel.name for folder, kernel in found if not kernel.count(*MATRIX[folder])] == []


def test_decoding_streams_weights_by_16_bytes_past_the_cache(disassembled: list[Compiled]) -> None:
    decoding = [kernel for _, kernel in products(disassembled) if "stream_decode" in kernel.name]
    assert decoding
    assert [kernel.name for kernel in decoding if not kernel.count("LDG", *STREAMED)] == []


@pytest.mark.parametrize("scheme", MOST_FOR_8_WEIGHTS)
def test_decoding_spends_few_instructions_on_a_weight(
    disassembled: list[Compiled], scheme: str
) -> None:
    found = [
        (kernel.name, instructions_for_8_weights(kernel, MATRIX[folder][0], scheme))
        for folder, kernel in products(disassembled)
        if "stream_decode" in kernel.name and scheme in kernel.name
        if FOUR_STRIPS_ONE_TILE in kernel.name
    ]
    assert found
    most = MOST_FOR_8_WEIGHTS[scheme] * ROOM.get(disassembled[0].architecture, 1.0)
    assert [(name, round(spent, 1)) for name, spent in found if spent > most] == []


def instructions_for_8_weights(kernel: Function, matrix: str, scheme: str) -> float:
    instructions = kernel.every_round(matrix, *STREAMED)
    loads = sum(each.is_a("LDG", *STREAMED) for each in instructions)
    weights = loads * LANE_BYTES * (1 if "IntegerILi8E" in scheme else 2)
    return len(instructions) * 8 / weights
