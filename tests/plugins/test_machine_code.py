"""Check that machine code is read as nvdisasm prints it."""

from __future__ import annotations

from castline.plugins.machine_code import Function, functions

# A loop in a loop, a section that is jumped over, and the endless branch behind the end.
TEXT = """\
\t.target\tsm_80
//--------------------- .text.kernel      --------------------------
\t.section\t.text.kernel,"ax",@progbits
.text.kernel:
        .type           kernel,@function
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_2:
        /*0010*/                   LDG.E.64 R2, [R4.64] ;
.L_x_1:
        /*0020*/                   LDG.E.NA.128.CONSTANT R8, [R6.64] ;
        /*0030*/              @!P0 BRA `(.L_x_0) ;
        /*0040*/                   LDG.E.U16 R3, [R4.64] ;
        /*0050*/                   FMUL R3, R3, R3 ;
.L_x_0:
        /*0060*/                   HMMA.16816.F32 R12, R8, R2, R12 ;
        /*0070*/               @P1 BRA `(.L_x_1) ;
        /*0080*/               @P2 BRA `(.L_x_2) ;
        /*0090*/                   EXIT ;
.L_x_3:
        /*00a0*/                   BRA `(.L_x_3);
.L_x_4:
.text.other:
        /*0000*/                   STL.64 [R1], R2 ;
        /*0010*/                   LDL.LU R2, [R1] ;
        /*0020*/                   EXIT ;
"""


def kernel() -> Function:
    return functions(TEXT)[0]


def test_functions_have_their_own_instructions() -> None:
    assert [(found.name, len(found.instructions)) for found in functions(TEXT)] == [
        ("kernel", 11),
        ("other", 3),
    ]


def test_an_instruction_is_its_operation_and_modifiers_in_any_order() -> None:
    load = kernel().instructions[2]
    assert load.address == 0x20
    assert load.is_a("LDG", "128", "NA")
    assert not load.is_a("LDG", "64")
    assert kernel().count("LDG") == 3
    assert kernel().count("LDG", "E", "64") == 1


def test_a_loop_is_what_lies_before_a_branch_back() -> None:
    assert [len(loop) for loop in kernel().loops()] == [6, 8]


def test_the_innermost_loop_is_the_shortest_one_with_the_operation() -> None:
    assert [each.address for each in kernel().innermost_loop("HMMA")] == list(range(0x20, 0x80, 16))
    assert kernel().innermost_loop("IMMA") == ()


def test_what_a_round_may_jump_over_is_left_out() -> None:
    found = [each.address for each in kernel().every_round("HMMA", "128", "NA")]
    assert found == [0x20, 0x30, 0x60, 0x70]


def test_a_section_with_a_wide_load_is_kept() -> None:
    assert len(kernel().every_round("HMMA", "U16")) == 6


def test_spills_are_found() -> None:
    assert kernel().local_memory() == ()
    assert [each.address for each in functions(TEXT)[1].local_memory()] == [0, 16]
