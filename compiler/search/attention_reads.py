"""Let attention read quantized queries, keys and values, as the graph of such a recipe does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from castline.compiler.quant.scheme import ActivationScheme
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.straight_through import read_learning

_PARTS = 3  # query, key, value


def attention_reading(scheme: ActivationScheme | None) -> AbstractContextManager[Any]:
    """Return a context in which attention reads what codes stand for; None changes nothing.

    Each token of each head has its own scale, and gradients pass as if nothing was rounded.
    Attention that is not one operator of torch reads float, as it does in the graph.
    """
    return nullcontext() if scheme is None else _QuantizedReads(scheme)


class _QuantizedReads(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, scheme: ActivationScheme) -> None:
        super().__init__()
        self._quantizer = Quantizer(None, scheme)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            assert len(args) >= _PARTS, "transformers gives query, key and value by place"
            read = (read_learning(self._quantizer, each, None) for each in args[:_PARTS])
            args = (*read, *args[_PARTS:])
        return func(*args, **(kwargs or {}))
