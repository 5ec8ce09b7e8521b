"""Call the kernels: the C interface of plugins/common/kernels.h, on addresses of memory.

plugins/array_kernels.py has the same calls on arrays.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_char_p, c_int32, c_size_t, c_void_p
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from castline.errors import PluginError
from castline.plugins.packing import LAYOUT_VERSION


class ElementType(IntEnum):
    """Of values that are not codes: CastlineType."""

    FLOAT16 = 0
    BFLOAT16 = 1


class OffsetsKind(IntEnum):
    """Of what weight-only groups are shifted by: CastlineOffsets."""

    ZERO_POINTS = 0
    FLOAT_OFFSETS = 1


@dataclass(frozen=True)
class Product:
    """The shape of y [m, n] = x [m, k] times a packed weight [n, k] of `weight_bits`."""

    m: int
    n: int
    k: int
    type: ElementType
    weight_bits: int
    group: int = 0
    """Input channels that share a scale: 32, 64, 128 and so on; 0: all."""


@dataclass(frozen=True)
class Scratch:
    """Addresses and sizes of memory that a product may use; the tickets are zero, and stay so."""

    partials: int = 0
    partial_bytes: int = 0
    tickets: int = 0
    ticket_count: int = 0


class _Product(Structure):
    _fields_ = tuple((name, c_int32) for name in ("m", "n", "k", "type", "weight_bits", "group"))


class _Scratch(Structure):
    _fields_ = (
        ("partials", c_void_p),
        ("partial_bytes", c_size_t),
        ("tickets", c_void_p),
        ("ticket_count", c_size_t),
    )


class _WeightOnly(Structure):
    _fields_ = (
        ("shape", _Product),
        *((name, c_void_p) for name in ("x", "packed", "scales", "offsets")),
        ("offsets_kind", c_int32),
        *((name, c_void_p) for name in ("bias", "y")),
    )


class _Integer(Structure):
    _fields_ = (
        ("shape", _Product),
        *((name, c_void_p) for name in ("codes", "scale", "zero_point", "packed", "weight_scale")),
        *((name, c_void_p) for name in ("weight_zero_point", "weight_sums", "bias", "y")),
        ("group_scales", c_void_p),
    )


class _Quantize(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("m", "k", "type", "bits")),
        *((name, c_void_p) for name in ("x", "codes", "scale", "zero_point")),
    )


class _Reassemble(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("m", "k", "type", "extras")),
        *((name, c_void_p) for name in ("x", "gather", "scale", "place", "channel")),
        *((name, c_void_p) for name in ("channel_scale", "y")),
    )


class Kernels:
    """A library of the kernels. Addresses are integers; 0 where there is nothing.

    `stream` is the address of a cudaStream_t. Nothing waits for the results.
    """

    def __init__(self, path: Path) -> None:
        """Load the library at `path`.

        Raises:
            PluginError: it cannot be loaded, is none of the kernels, or reads another layout.
        """
        try:
            self._library = ctypes.CDLL(str(path))
            self._declare()
        except (OSError, AttributeError) as error:
            raise PluginError(f"{path} cannot be loaded as Castline's kernels: {error}") from error
        self.build_info: dict[str, Any] = json.loads(self._library.castline_build_info())
        found = self.build_info["layout_version"]
        if found != LAYOUT_VERSION:
            raise PluginError(
                f"{path} reads packed weights of layout {found}, and this Castline writes layout"
                f" {LAYOUT_VERSION}: build the library anew with `castline plugins build`"
            )

    def tactics(self, product: Product, *, integer: bool, max_m: int) -> tuple[int, ...]:
        """Return the tactics worth timing for a product of up to `max_m` tokens."""
        room = 64
        found = (c_int32 * room)()
        shape = byref(_shape(product))
        count = self._library.castline_tactics(shape, int(integer), max_m, found, room)
        assert count <= room, f"castline_tactics says {count}: make room"
        return tuple(found[:count])

    def scratch(
        self, product: Product, *, integer: bool, max_m: int, tactic: int = 0
    ) -> tuple[int, int]:
        """Return the bytes and the tickets that suffice for up to `max_m` tokens."""
        sizes = c_size_t(), c_size_t()
        self._call(
            "castline_scratch",
            byref(_shape(product)),
            int(integer),
            max_m,
            tactic,
            *map(byref, sizes),
        )
        return sizes[0].value, sizes[1].value

    def weight_only(
        self,
        product: Product,
        *,
        x: int,
        packed: int,
        scales: int,
        offsets: int,
        offsets_kind: OffsetsKind,
        bias: int,
        y: int,
        tactic: int = 0,
        scratch: Scratch = Scratch(),
        stream: int = 0,
    ) -> None:
        """Write y = x @ (codes * scales + offsets)^T + bias: CastlineWeightOnly."""
        shape = _shape(product)
        what = _WeightOnly(shape, x, packed, scales, offsets, offsets_kind, bias, y)
        held = byref(_scratch(scratch))
        self._call("castline_weight_only", byref(what), tactic, held, c_void_p(stream))

    def integer(
        self,
        product: Product,
        *,
        codes: int,
        scale: int,
        zero_point: int,
        packed: int,
        weight_scale: int,
        weight_zero_point: int,
        weight_sums: int,
        bias: int,
        y: int,
        group_scales: int = 0,
        tactic: int = 0,
        scratch: Scratch = Scratch(),
        stream: int = 0,
    ) -> None:
        """Write the product of codes with zero points, and of scales: CastlineInteger."""
        what = _Integer(
            *(_shape(product), codes, scale, zero_point, packed, weight_scale),
            *(weight_zero_point, weight_sums, bias, y, group_scales),
        )
        held = byref(_scratch(scratch))
        self._call("castline_integer", byref(what), tactic, held, c_void_p(stream))

    def quantize(
        self,
        m: int,
        k: int,
        type_: ElementType,
        bits: int,
        *,
        x: int,
        codes: int,
        scale: int,
        zero_point: int,
        stream: int = 0,
    ) -> None:
        """Write codes, scale and zero_point (0: symmetric) of each token: CastlineQuantize."""
        what = _Quantize(m, k, type_, bits, x, codes, scale, zero_point)
        self._call("castline_quantize", byref(what), c_void_p(stream))

    def reassemble(
        self,
        m: int,
        k: int,
        type_: ElementType,
        channels: Channels,
        *,
        x: int,
        y: int,
        stream: int = 0,
    ) -> None:
        """Write y of x, with channels taken apart and put together: CastlineReassemble."""
        what = channels.structure(m, k, type_, x, y)
        self._call("castline_reassemble", byref(what), c_void_p(stream))

    def reassemble_quantize(
        self,
        m: int,
        k: int,
        type_: ElementType,
        channels: Channels,
        bits: int,
        *,
        x: int,
        codes: int,
        scale: int,
        zero_point: int,
        stream: int = 0,
    ) -> None:
        """Write codes, scale and zero_point of what `reassemble` writes."""
        first = channels.structure(m, k, type_, x, 0)
        then = _Quantize(m, k, type_, bits, 0, codes, scale, zero_point)
        self._call("castline_reassemble_quantize", byref(first), byref(then), c_void_p(stream))

    def _call(self, function: str, *arguments: Any) -> None:
        if getattr(self._library, function)(*arguments) != 0:
            reason: bytes = self._library.castline_last_error()
            raise PluginError(f"{function}: {reason.decode()}")

    def _declare(self) -> None:
        for name in ("castline_last_error", "castline_build_info"):
            getattr(self._library, name).restype = c_char_p
        stream, scratch, number = c_void_p, POINTER(_Scratch), c_int32
        takes: dict[str, Sequence[Any]] = {
            "tactics": (POINTER(_Product), number, number, POINTER(c_int32), number),
            "scratch": (POINTER(_Product), *[number] * 3, *[POINTER(c_size_t)] * 2),
            "weight_only": (POINTER(_WeightOnly), number, scratch, stream),
            "integer": (POINTER(_Integer), number, scratch, stream),
            "quantize": (POINTER(_Quantize), stream),
            "reassemble": (POINTER(_Reassemble), stream),
            "reassemble_quantize": (POINTER(_Reassemble), POINTER(_Quantize), stream),
        }
        for name, types in takes.items():
            getattr(self._library, f"castline_{name}").argtypes = types


@dataclass(frozen=True)
class Channels:
    """Addresses of what a reassembly takes: gather, scale [k]; place, channel, channel_scale."""

    extras: int
    gather: int
    scale: int
    place: int
    channel: int
    channel_scale: int

    def structure(self, m: int, k: int, type_: ElementType, x: int, y: int) -> Structure:
        """Return the CastlineReassemble of x and y."""
        sources = (self.gather, self.scale, self.place, self.channel, self.channel_scale)
        return _Reassemble(m, k, type_, self.extras, x, *sources, y)


def _shape(product: Product) -> _Product:
    group = product.group or product.k
    return _Product(product.m, product.n, product.k, product.type, product.weight_bits, group)


def _scratch(scratch: Scratch) -> _Scratch:
    return _Scratch(scratch.partials, scratch.partial_bytes, scratch.tickets, scratch.ticket_count)
