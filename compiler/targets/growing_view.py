"""Run a decoder with a fixed cache as if its cache grew, to compare it with one that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.targets.session import fixed_cache_feed
from castline.exporters.names import (
    ATTENTION_MASK,
    INPUT_IDS,
    PAST,
    PAST_PREFIX,
    PRESENT_PREFIX,
    WRITE_INDICES,
)

if TYPE_CHECKING:
    import onnxruntime

Array: TypeAlias = NDArray[np.generic]


@dataclass(frozen=True)
class Input:
    """An input as `onnxruntime.NodeArg` describes one."""

    name: str
    type: str
    shape: list[int | str | None]


def growing_view(
    session: onnxruntime.InferenceSession,
) -> onnxruntime.InferenceSession | GrowingView:
    """Return a view of a decoder whose cache is fixed; any other session as it is."""
    fixed = any(node.name == WRITE_INDICES for node in session.get_inputs())
    return GrowingView(session) if fixed else session


class GrowingView:
    """A loaded decoder whose past is [B, heads, past, width] and present [B, heads, total, width].

    Has what Polygraphy's OnnxrtRunner asks of a session. Each run copies the caches.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        pasts = [node for node in session.get_inputs() if node.name.startswith(PAST_PREFIX)]
        self._room = next((node.shape[2] for node in pasts if isinstance(node.shape[2], int)), None)

    def get_inputs(self) -> list[Input]:
        """Return the inputs but the write indices, which follow from the lengths of the others."""
        return [
            Input(node.name, node.type, _open_length(node.name, node.shape))
            for node in self._session.get_inputs()
            if node.name != WRITE_INDICES
        ]

    def get_outputs(self) -> Sequence[onnxruntime.NodeArg]:
        """Return the outputs."""
        return list(self._session.get_outputs())

    def get_modelmeta(self) -> onnxruntime.ModelMetadata:
        """Return what the file says of itself."""
        return self._session.get_modelmeta()

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Array]) -> list[Array]:
        """Return the outputs by `names` (None: all), the caches as long as the attention mask."""
        total = feed[ATTENTION_MASK].shape[1]
        wanted = names or [node.name for node in self._session.get_outputs()]
        found = self._session.run(wanted, self.fixed(feed))
        return [
            array[:, :, :total] if name.startswith(PRESENT_PREFIX) else array
            for name, array in zip(wanted, found, strict=True)
        ]

    def fixed(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return what the graph itself is fed in the place of `feed`."""
        mask = feed[ATTENTION_MASK].astype(np.int64)
        room = mask.shape[1] if self._room is None else self._room
        padded = {name: _padded(name, array, room) for name, array in feed.items()}
        return padded | fixed_cache_feed(mask, feed[INPUT_IDS].shape[1], room)


def _open_length(name: str, shape: Sequence[int | str | None]) -> list[int | str | None]:
    is_past = name.startswith(PAST_PREFIX)
    return [*shape[:2], PAST, *shape[3:]] if is_past else list(shape)


def _padded(name: str, array: Array, room: int) -> Array:
    if not name.startswith(PAST_PREFIX):
        return array
    batch, heads, length, width = array.shape
    padded = np.zeros((batch, heads, room, width), array.dtype)
    padded[:, :, :length] = array
    return padded
