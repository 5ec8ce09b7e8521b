"""A student's linears read places, quantize, multiply by quantized weights, and are corrected."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from castline.compiler.quant.scheme import ActivationScheme, QuantParameters, WeightScheme
from castline.compiler.search.low_rank import LowRank
from castline.compiler.search.quantizer import Quantizer
from castline.compiler.search.student import Student, StudentLinear

W8 = WeightScheme(8, "per-channel", symmetric=True)
A4 = ActivationScheme(4, "per-token", dynamic=True)
STATIC = ActivationScheme(4, "per-tensor", dynamic=False)
X = torch.tensor([[7.0, -2.4, 0.6]])  # a step of 1 in 4 bits


class Reversed:
    """Places in the opposite order; counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def of_values(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return x.flip(-1)


def parameter(*rows: list[float]) -> torch.Tensor:
    return torch.nn.Parameter(torch.tensor(rows), requires_grad=False)


def test_places_are_quantized_multiplied_and_corrected() -> None:
    w, bias = parameter([0.0, 0.0, 0.0]), torch.tensor([100.0])
    linear = StudentLinear(torch.tensor([[1.0, 2.0, 3.0]]), Quantizer(W8, A4), Reversed())
    student = Student({("w", None): linear}, {"w": w}, lambda x: F.linear(x, w, bias))
    # 0.6, -2.4, 7 are read as 1, -2, 7.
    assert student.leaving(X, {}).tolist() == [[1 - 4 + 21 + 100]]
    low_rank = LowRank(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([[4.0, 6.0]]))
    corrected = student.leaving(X, {("w", None): low_rank})
    assert corrected.tolist() == [[118 + (4 * 1 + 6 * -2) / 2]]


def test_static_parameters_are_those_of_what_is_read() -> None:
    w = parameter([0.0, 0.0, 0.0])
    linear = StudentLinear(
        torch.ones(1, 3), Quantizer(W8, STATIC), parameters=QuantParameters(0.5, 0)
    )
    student = Student({("w", None): linear}, {"w": w}, lambda x: F.linear(x, w))
    assert student.leaving(X, {}).tolist() == [[3.5 - 2.5 + 0.5]]


def test_one_value_is_quantized_once_for_linears_that_read_it_alike() -> None:
    w, v, u = (parameter([1.0, 0.0, 0.0]) for _ in range(3))
    places, quantizer = Reversed(), Quantizer(W8, A4)
    linears = {
        ("w", None): StudentLinear(w.detach(), quantizer, places),
        ("v", None): StudentLinear(v.detach(), quantizer, places),
        ("u", None): StudentLinear(u.detach(), quantizer),
    }

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.linear(x, each) for each in (w, v, u)], dim=1)

    student = Student(linears, {"w": w, "v": v, "u": u}, run)
    assert student.leaving(X, {}).tolist() == [[1.0, 1.0, 7.0]]
    assert places.asked == 1
    student.leaving(X, {})
    assert places.asked == 2


def test_other_matrices_are_multiplied_as_the_model_does() -> None:
    """Such as a router, or an expert that is not quantized."""
    router, stack = parameter([0.1, 0.2, 0.3]), torch.nn.Parameter(torch.ones(2, 1, 3))
    stack.requires_grad_(False)
    linears = {("stack", 1): StudentLinear(torch.zeros(1, 3), Quantizer(W8, A4))}

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([F.linear(x, each) for each in (router, stack[0], stack[1])], dim=1)

    found = Student(linears, {"stack": stack, "router": router}, run).leaving(X, {})
    assert torch.equal(
        found, torch.cat([X @ router.T, X.sum(1, keepdim=True), torch.zeros(1, 1)], 1)
    )


def test_a_gradient_comes_through_to_what_enters() -> None:
    w = parameter([0.0, 0.0, 0.0])
    linear = StudentLinear(torch.tensor([[1.0, 2.0, 3.0]]), Quantizer(W8, A4), Reversed())
    student = Student({("w", None): linear}, {"w": w}, lambda x: F.linear(x, w))
    entering = X.clone().requires_grad_()
    student.leaving(entering, {}).sum().backward()
    assert entering.grad is not None
    assert entering.grad.tolist() == [[3.0, 2.0, 1.0]]
