"""Read machine code as nvdisasm prints it: functions, their instructions, and the loops of them.

Compilers say little of what became of a kernel; its instructions say all. What is read here are the
lines of `nvdisasm -c`, which have an address, perhaps a predicate, an operation with its modifiers,
and operands:

    .L_x_4:
            /*1d40*/              @!P0 HMMA.16816.F32 R8, R4, R20, R8 ;
            /*1d50*/               @P1 BRA `(.L_x_4) ;
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_FUNCTION = re.compile(r"^\.text\.(\S+):$")
_LABEL = re.compile(r"^(\.L\w+):$")
_INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")
_TARGET = re.compile(r"`\((\.L\w+)\)")
_BRANCH = "BRA"
_LOCAL_MEMORY = ("LDL", "STL")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its address in bytes, its operation ("LDG", "E", "128") and its operands."""

    address: int
    operation: tuple[str, ...]
    operands: str

    def is_a(self, name: str, *modifiers: str) -> bool:
        """Return whether this is operation `name` with all of `modifiers`, in any order."""
        return self.operation[0] == name and set(modifiers) <= set(self.operation[1:])


@dataclass(frozen=True)
class Function:
    """A kernel, or a function that one calls; `labels` are indices into its instructions."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]

    def count(self, name: str, *modifiers: str) -> int:
        """Return how many instructions are operation `name` with all of `modifiers`."""
        return sum(instruction.is_a(name, *modifiers) for instruction in self.instructions)

    def local_memory(self) -> tuple[Instruction, ...]:
        """Return what reads or writes a thread's own memory: spills, and arrays with an index."""
        return tuple(found for found in self.instructions if found.operation[0] in _LOCAL_MEMORY)

    def loops(self) -> Iterator[tuple[Instruction, ...]]:
        """Yield the instructions from each label to a branch back to it, the branch too."""
        for at, instruction in enumerate(self.instructions):
            target = _TARGET.search(instruction.operands)
            if instruction.operation[0] != _BRANCH or target is None:
                continue
            start = self.labels[target[1]]
            if start < at:  # the endless branch to itself behind a kernel's end is no loop
                yield self.instructions[start : at + 1]

    def innermost_loop(self, name: str) -> tuple[Instruction, ...]:
        """Return the shortest loop that has an operation `name`; none: no instructions."""
        having = [loop for loop in self.loops() if any(each.is_a(name) for each in loop)]
        return min(having, key=len, default=())

    def every_round(self, name: str, *wide: str) -> tuple[Instruction, ...]:
        """Return what each round of that loop runs: without the sections it mostly jumps over.

        Those are sections without an operation `name` and without a load with the modifiers `wide`:
        what is done where a group of scales ends, say.
        """
        loop = self.innermost_loop(name)
        rare: set[Instruction] = set()
        for at, instruction in enumerate(loop):
            section = loop[at + 1 : at + 1 + self._jumped_over(instruction)]
            if not any(each.is_a(name) or each.is_a("LDG", *wide) for each in section):
                rare.update(section)
        return tuple(each for each in loop if each not in rare)

    def _jumped_over(self, instruction: Instruction) -> int:
        """Return how many instructions a forward branch jumps over; 0: it is none."""
        target = _TARGET.search(instruction.operands)
        if instruction.operation[0] != _BRANCH or target is None:
            return 0
        past = (found.address for found in self.instructions[self.labels[target[1]] :])
        size = self.instructions[1].address - self.instructions[0].address
        return max((next(past) - instruction.address) // size - 1, 0)


def functions(text: str) -> tuple[Function, ...]:
    """Return the functions in what `nvdisasm -c` printed, in their order."""
    found: list[tuple[str, list[Instruction], dict[str, int]]] = []
    for line in text.splitlines():
        if name := _FUNCTION.match(line):
            found.append((name[1], [], {}))
        elif found and (label := _LABEL.match(line)):
            found[-1][2][label[1]] = len(found[-1][1])
        elif found and (read := _INSTRUCTION.match(line)):
            address, operation, operands = read.groups()
            instruction = Instruction(int(address, 16), tuple(operation.split(".")), operands)
            found[-1][1].append(instruction)
    return tuple(Function(name, tuple(code), labels) for name, code, labels in found)
