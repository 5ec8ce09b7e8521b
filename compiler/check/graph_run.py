"""Run a graph on feeds of tokens, and fill in what else it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.check.original_runner import Feed
from castline.compiler.targets.growing_view import GrowingView
from castline.compiler.targets.runtime import runtime_errors
from castline.errors import TargetError
from castline.exporters.names import (
    ATTENTION_MASK,
    INPUT_IDS,
    PAST_PREFIX,
    POSITION_IDS,
    TOKEN_TYPE_IDS,
    WRITE_INDICES,
)
from castline.exporters.torch_model import positions

if TYPE_CHECKING:
    import onnxruntime

Array: TypeAlias = NDArray[np.generic]

_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
}


class GraphRun:
    """A loaded graph as a function of feeds: input_ids [B, S] and attention_mask [B, total].

    Positions are counted in the mask, segments are all one, and caches are empty where the feed
    does not have them. A cache of fixed capacity looks as if it grew.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, outputs: Mapping[str, str] | None = None
    ) -> None:
        """Give every output of `session`, or those that `outputs` lists: its own name -> theirs."""
        fixed = any(node.name == WRITE_INDICES for node in session.get_inputs())
        self.session = GrowingView(session) if fixed else session
        self._inputs = {node.name: node for node in self.session.get_inputs()}
        names = [node.name for node in self.session.get_outputs()]
        self._outputs = {name: name for name in names} if outputs is None else dict(outputs)

    def __call__(self, feed: Feed) -> Mapping[str, Array]:
        """Return the outputs for a feed. Raises TargetError if ONNX Runtime refuses to run."""
        try:
            found = self.session.run(list(self._outputs.values()), self.filled(feed))
        except runtime_errors() as error:
            raise TargetError(f"ONNX Runtime could not run the model: {error}") from error
        return dict(zip(self._outputs, found, strict=True))

    def filled(self, feed: Feed) -> dict[str, Array]:
        """Return the inputs of the graph alone, in its types, and fill in what is not fed."""
        tokens, mask = feed[INPUT_IDS], feed[ATTENTION_MASK]
        given = {
            POSITION_IDS: positions(mask.astype(np.int64))[:, -tokens.shape[1] :],
            TOKEN_TYPE_IDS: np.zeros_like(tokens),
            **self.empty_past(len(tokens)),
            **feed,
        }
        return {
            name: np.ascontiguousarray(given[name].astype(_TYPES.get(node.type, given[name].dtype)))
            for name, node in self._inputs.items()
        }

    def fed(self, feed: Feed) -> dict[str, Array]:
        """Return what the graph itself takes in: for a fixed cache other inputs than `filled`."""
        filled = self.filled(feed)
        return self.session.fixed(filled) if isinstance(self.session, GrowingView) else filled

    def empty_past(self, batch: int) -> dict[str, Array]:
        """Return the cache inputs before the first token; {} for a graph without a cache.

        Raises TargetError for a cache whose shape or type is not known.
        """
        pasts = {name: one for name, one in self._inputs.items() if name.startswith(PAST_PREFIX)}
        empty: dict[str, Array] = {}
        for name, node in pasts.items():
            _, heads, _, width = node.shape
            if not (isinstance(heads, int) and isinstance(width, int) and node.type in _TYPES):
                raise TargetError(
                    f"{name}: expected the shape [batch, kv_heads, past, head_size] with kv_heads "
                    f"and head_size known, and one of {', '.join(_TYPES)}; found {node.shape}, "
                    f"{node.type}."
                )
            empty[name] = np.zeros((batch, heads, 0, width), _TYPES[node.type])
        return empty
