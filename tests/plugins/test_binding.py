"""The C interface of the kernels from Python."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from castline.errors import PluginError
from castline.plugins import binding
from castline.plugins.array_kernels import ArrayKernels
from castline.plugins.binding import ElementType, Kernels, OffsetsKind, Product
from castline.plugins.emulation import SOURCES
from castline.plugins.packing import LAYOUT_VERSION

STRUCTURES = {
    "CastlineProduct": binding._Product,
    "CastlineScratch": binding._Scratch,
    "CastlineWeightOnly": binding._WeightOnly,
    "CastlineInteger": binding._Integer,
    "CastlineQuantize": binding._Quantize,
    "CastlineReassemble": binding._Reassemble,
}
LINEAR = Product(m=4, n=64, k=4096, type=ElementType.FLOAT16, weight_bits=4, group=128)


def compiled(folder: Path, *arguments: str, text: str) -> Path:
    source, made = folder / "source.c", folder / "made"
    source.write_text(text)
    command = ["gcc", *arguments, "-I", str(SOURCES / "common"), str(source), "-o", str(made)]
    subprocess.run(command, check=True, timeout=60)
    return made


def test_structures_are_those_of_the_header(tmp_path: Path) -> None:
    lines = [
        f'printf("{name} {field} %zu\\n", offsetof({name}, {field}));'
        for name, structure in STRUCTURES.items()
        for field, _ in structure._fields_
    ]
    lines += [f'printf("{name} %zu\\n", sizeof({name}));' for name in STRUCTURES]
    text = '#include <stdio.h>\n#include "kernels.h"\nint main(void) {' + "\n".join(lines) + "}\n"
    program = compiled(tmp_path, text=text)
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split("\n")
    expected = [
        f"{name} {field} {getattr(structure, field).offset}"
        for name, structure in STRUCTURES.items()
        for field, _ in structure._fields_
    ]
    expected += [f"{name} {ctypes.sizeof(each)}" for name, each in STRUCTURES.items()]
    assert said[:-1] == expected


def test_the_library_says_what_it_was_built_for(emulated: ArrayKernels) -> None:
    assert emulated.kernels.build_info["layout_version"] == LAYOUT_VERSION
    assert emulated.kernels.build_info["emulated"] is True


def test_tactics_are_positive_and_unique_and_have_scratch_memory(emulated: ArrayKernels) -> None:
    tactics = emulated.kernels.tactics(LINEAR, integer=False, max_m=16)
    assert tactics
    assert len(set(tactics)) == len(tactics)
    assert min(tactics) > 0
    for tactic in (0, *tactics):
        size, count = emulated.kernels.scratch(LINEAR, integer=False, max_m=16, tactic=tactic)
        assert (size > 0) == (count > 0)


def test_a_refusal_has_the_reason_of_the_library(emulated: ArrayKernels) -> None:
    with pytest.raises(PluginError, match=r"castline_scratch: .*12345"):
        emulated.kernels.scratch(LINEAR, integer=False, max_m=16, tactic=12345)


def test_sizes_that_no_product_has_are_refused(emulated: ArrayKernels) -> None:
    with pytest.raises(PluginError, match="sizes must be positive"):
        emulated.kernels.scratch(replace(LINEAR, n=0), integer=False, max_m=16)


@pytest.mark.parametrize("moved", ["x", "packed"])
def test_addresses_that_16_bytes_cannot_be_loaded_from_are_refused(
    emulated: ArrayKernels, moved: str
) -> None:
    names = ("x", "packed", "scales", "offsets", "bias", "y")
    at = {name: 64 + 2 * (name == moved) for name in names}
    with pytest.raises(PluginError, match="16-aligned addresses"):
        emulated.kernels.weight_only(LINEAR, **at, offsets_kind=OffsetsKind.ZERO_POINTS)


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("no library")
    with pytest.raises(PluginError, match=r"text\.so cannot be loaded as Castline's kernels"):
        Kernels(tmp_path / "text.so")


def test_a_library_of_something_else_is_refused(tmp_path: Path) -> None:
    library = compiled(tmp_path, "-shared", "-fPIC", text="int other(void) { return 1; }\n")
    with pytest.raises(PluginError, match=r"cannot be loaded as Castline's kernels.*castline_"):
        Kernels(library)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    names = ["last_error", "tactics", "scratch", "weight_only", "integer", "quantize"]
    names += ["reassemble", "reassemble_quantize"]
    text = 'const char* castline_build_info(void) { return "{\\"layout_version\\": 99}"; }\n'
    text += "".join(f"void castline_{name}(void) {{}}\n" for name in names)
    library = compiled(tmp_path, "-shared", "-fPIC", text=text)
    with pytest.raises(PluginError, match="layout 99, and this Castline writes layout 1: build"):
        Kernels(library)
