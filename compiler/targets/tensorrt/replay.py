"""Record in a CUDA graph a step that is done again and again, and replay it.

Launching the kernels of a decoding step one by one costs about as much as computing them; a graph
launches them at once. It holds the shapes and the addresses that it was recorded with. A cache of
fixed capacity changes neither, and so is replayed; one that grows has another shape in every step.
"""

from __future__ import annotations

from collections.abc import Callable

from castline.compiler.targets.tensorrt.cuda import Graph, Stream
from castline.compiler.targets.tensorrt.engine import Context


class Replay:
    """The steps of one context.

    What changed since the last step is run plainly, for TensorRT and our plugins allocate at the
    first run of a shape, and a recording cannot allocate. The next step that is the same is
    recorded, and those after it replayed.
    """

    def __init__(self, context: Context, stream: Stream) -> None:
        self._context = context
        self._stream = stream
        self._changes = -1
        self._graph: Graph | None = None

    def run(self, work: Callable[[], None]) -> None:
        """Put `work` into the stream; it is the same work, copies too, where nothing changed."""
        if self._context.changes != self._changes:
            self._changes = self._context.changes
            self._graph = None
            work()
            return
        if self._graph is None:
            self._graph = self._stream.recorded(work)
        self._graph.launch()
