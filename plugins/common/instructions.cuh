// Name the instructions that kernels are made of, each with its twin for the emulator.
//
// Lane 4 * g + t of a warp holds of the operands of a matrix instruction, D [16, 8] = A [16, K] B [K, 8] + C:
//
//   K = 16, 16 bits a value, two in a register       K = 32, 8 bits a value, four in a register
//     a[0]  row g      columns 2 t + {0, 1}            a[0]  row g      columns 4 t + {0 .. 3}
//     a[1]  row g + 8  columns 2 t + {0, 1}            a[1]  row g + 8  columns 4 t + {0 .. 3}
//     a[2]  row g      columns 8 + 2 t + {0, 1}        a[2]  row g      columns 16 + 4 t + {0 .. 3}
//     a[3]  row g + 8  columns 8 + 2 t + {0, 1}        a[3]  row g + 8  columns 16 + 4 t + {0 .. 3}
//     b0    column g   rows 2 t + {0, 1}               b0    column g   rows 4 t + {0 .. 3}
//     b1    column g   rows 8 + 2 t + {0, 1}           b1    column g   rows 16 + 4 t + {0 .. 3}
//
//   c[0], c[1]  row g, columns 2 t + {0, 1};  c[2], c[3]  row g + 8, the same columns
//
// The value of the lower column or row is in the lower bits. Whole warps call what shuffles, multiplies or
// waits; addresses are aligned to what they move.
// Source: PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type" and "mma.m16n8k32".
#pragma once

#include <type_traits>

#include "launch.h"
#include "elements.cuh"

#if defined(__CUDACC__)
#include "instructions_device.cuh"
#else
#include "instructions_emulated.h"
#endif
