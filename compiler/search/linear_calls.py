"""See every product of activations with a stored matrix as torch computes it, and answer for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

Tensor: TypeAlias = torch.Tensor

_MATMULS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


@dataclass(frozen=True, eq=False)
class LinearCall:
    """One product y = x W^T + bias that a model is about to compute."""

    name: str
    """Name of the parameter that holds W."""

    expert: int | None
    """Which of the stacked matrices W is; None where the parameter is one matrix."""

    x: Tensor
    """[..., K]."""

    weight: Tensor
    """[N, K], however the model stores it."""

    bias: Tensor | None
    """[N]."""

    transposed: bool
    """Whether the model stores it as [K, N]."""

    def answer(self, x: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Return the product [..., N], with another x or W in place of its own."""
        with torch._C.DisableTorchFunction():
            return F.linear(
                self.x if x is None else x, self.weight if weight is None else weight, self.bias
            )


Answer: TypeAlias = Callable[[LinearCall], Tensor]


class LinearCalls(TorchFunctionMode):  # type: ignore[misc]  # torch is untyped here
    """While it is entered, `answer` is asked for every product with one of the parameters.

    A parameter is known by its memory, so that it does not matter which module reads it, nor
    whether the model stores [N, K] or [K, N], one matrix or a stack of experts.
    """

    def __init__(self, parameters: Mapping[str, Tensor], answer: Answer) -> None:
        super().__init__()
        self._places = {
            parameter.untyped_storage().data_ptr(): (name, parameter)
            for name, parameter in parameters.items()
        }
        self._answer = answer

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        call = self._call(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if call is None else self._answer(call)

    def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> LinearCall | None:
        if func is F.linear:
            x, weight, bias = (*args, *kwargs.values(), None)[:3]
            return self._of(x, weight, bias)
        if func is torch.addmm and len(args) == 3 and not kwargs:
            bias, x, weight = args
            return self._of(x, weight.T, bias)
        if func in _MATMULS and len(args) == 2 and args[1].ndim == 2:
            return self._of(args[0], args[1].T, None)
        return None

    def _of(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> LinearCall | None:
        if weight.device.type == "meta":
            return None
        found = self._places.get(weight.untyped_storage().data_ptr())
        if found is None:
            return None
        name, parameter = found
        expert = weight.storage_offset() // parameter[0].numel() if parameter.ndim == 3 else None
        transposed = weight.stride()[-1] != parameter.stride()[-1]
        return LinearCall(name, expert, x, weight, bias, transposed)
