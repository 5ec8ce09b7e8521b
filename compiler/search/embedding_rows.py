"""Answer for embeddings whose tables are not in memory with the rows that are looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from castline.exporters.torch_model import TorchWeights

Tensor: TypeAlias = torch.Tensor
Rows: TypeAlias = Callable[[Tensor], Tensor]


class EmbeddingRows:
    """The embeddings of a model, which may be most of it, read row by row from its checkpoint.

    Only those that are on the meta device are answered for.
    """

    def __init__(self, weights: TorchWeights, tables: Mapping[str, torch.nn.Embedding]) -> None:
        """`tables` has the modules by the names of their weights, all of them in the checkpoint."""
        self._weights = weights
        self._tables = tables
        self._open: dict[str, Rows] = {}

    @contextmanager
    def held_open(self) -> Iterator[None]:
        """Keep the tables open that are read meanwhile: some must be decoded as a whole."""
        try:
            yield
        finally:
            self._open.clear()

    def answering(self) -> TorchFunctionMode:
        """Return the mode in which look-ups are answered."""
        absent = {
            id(module.weight): name
            for name, module in self._tables.items()
            if module.weight.device.type == "meta"
        }
        return _LookUps(absent, self._rows_of)

    def _rows_of(self, name: str) -> Rows:
        if name not in self._open:
            self._open[name] = self._weights.rows_of(name)
        return self._open[name]


class _LookUps(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped here
    """Answers every embedding whose table is absent by the rows that are asked for."""

    def __init__(self, absent: Mapping[int, str], rows_of: Callable[[str], Rows]) -> None:
        super().__init__()
        self._absent = absent
        self._rows_of = rows_of

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.embedding and len(args) > 1 and id(args[1]) in self._absent:
            wanted, places = torch.unique(args[0], return_inverse=True)
            rows = self._rows_of(self._absent[id(args[1])])(wanted)
            return rows[places]
        return func(*args, **(kwargs or {}))
