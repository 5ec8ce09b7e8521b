"""Keep the tests at the paths of what they test."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
PACKAGE = ROOT / "src" / "castline"
LINKED = ("compiler", "exporters", "plugins")
BESIDE = ("benchmarks", "samples")  # code that is not part of the package

# Tests of no single file, and why.
OF_NO_FILE = {
    "compiler/test_reassembled_graph.py": "rewriting, beside the module of transformers",
    "compiler/search/test_corrected_plan.py": "planning with QLLM's sections, and stopped",
    "compiler/search/test_stopped_search.py": "planning and the plan's store, stopped anywhere",
    "compiler/targets/test_two_forms.py": "targets/onnxruntime.py, on weights in two levels",
    "plugins/common/test_instructions.py": "plugins/common/instructions.cuh, on the emulator",
    "plugins/tensorrt/test_engine.py": "plugins/tensorrt/*.cpp, by a graph that TensorRT builds",
    "plugins/tensorrt/test_plugins.py": "plugins/tensorrt/*.cpp, by the answers of the classes",
    "plugins/quantize_per_token/test_kernel.py": "plugins/quantize_per_token/kernel.cu",
    "plugins/reassemble_channels/test_kernel.py": "plugins/reassemble_channels/kernel.cu",
    "plugins/gpu/test_products.py": "the kernels, on a GPU",
    "plugins/gpu/test_prologues.py": "the kernels, on a GPU",
    "plugins/prefill/test_prefill.py": "CUDA sources: prefill/kernel.cu",
    "plugins/test_kernel_code.py": "the machine code of every CUDA source",
    "plugins/linear_w4a16/test_kernel.py": "kernel.cu, on the emulator",
    "plugins/linear_w8a8/test_kernel.py": "kernel.cu, on the emulator",
    "quantized_folders/test_awq_folders.py": "the whole way, on folders by AutoAWQ",
    "quantized_folders/test_compressed_tensors_folders.py": "the whole way, on such folders",
    "quantized_folders/test_compile_folders.py": "the command line, on a quantized folder",
    "quantized_folders/test_gptq_folders.py": "the whole way, on folders by GPTQ's tools",
    "quantized_folders/test_modelopt_folders.py": "the whole way, on folders by ModelOpt",
    "samples/07_engine_in_cpp/test_on_gpu.py": "the program in C++, on a GPU",
    "samples/07_engine_in_cpp/test_program.py": "the program in C++, on a fake CUDA and TensorRT",
    "test_house.py": "promises of the whole repository",
    "test_mirror.py": "promises of the whole repository",
    "test_sample_engines.py": "the whole way, to engines with plugins",
    "test_sample_encoder.py": "the whole way, on a real encoder",
    "test_sample_gemma.py": "the whole way, on a real model",
    "test_sample_model.py": "the whole way, on a real model",
}

# Sources without a test file of their own, and what tests them.
TESTED_ELSEWHERE: dict[str, str] = {
    "progress.py": "a protocol, and a silence that every test of the compiler goes through",
}


def source_of(test: Path) -> Path:
    """Return the file, below the package or the root, of what `test` tests.

    `test_families.py` tests the file families.py or, where there is none, families/__init__.py.
    """
    relative = test.relative_to(TESTS)
    root = ROOT if relative.parts[0] in BESIDE else PACKAGE
    file = root / relative.with_name(relative.name.removeprefix("test_"))
    return file if file.is_file() else file.with_suffix("") / "__init__.py"


def expected_test(source: Path) -> Path:
    """Return where the test of `source` must be."""
    relative = source.relative_to(PACKAGE)
    if relative.name == "__init__.py":
        relative = relative.parent.with_suffix(".py")
    return TESTS / relative.with_name(f"test_{relative.name}")


def sources() -> list[Path]:
    """Return every file of the package, linked folders too, that has a function to test."""
    folders = [PACKAGE, *(PACKAGE / name for name in LINKED)]
    found = {file for folder in folders for file in folder.rglob("*.py")}
    return sorted(file for file in found if has_function(file))


def has_function(source: Path) -> bool:
    """Return whether there is behaviour in `source`; names, types and errors alone have none."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(tree))


def test_every_test_file_has_its_source_at_the_same_path() -> None:
    tests = {test for test in TESTS.rglob("test_*.py") if not source_of(test).is_file()}
    astray = {test.relative_to(TESTS).as_posix() for test in tests}
    assert sorted(astray - set(OF_NO_FILE)) == []


def test_every_source_with_behaviour_has_a_test_file() -> None:
    untested = {
        str(source.relative_to(PACKAGE))
        for source in sources()
        if not expected_test(source).is_file()
    }
    assert sorted(untested - set(TESTED_ELSEWHERE)) == []


def test_no_exception_is_stale() -> None:
    assert [name for name in OF_NO_FILE if not (TESTS / name).is_file()] == []
    stale = [
        name
        for name in TESTED_ELSEWHERE
        if not (PACKAGE / name).is_file() or expected_test(PACKAGE / name).is_file()
    ]
    assert stale == []
