"""Say in one error why a model cannot be traced: the architecture, the node, what was tried."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from castline.errors import UnsupportedArchitectureError

# What torch, the exporter and a model's own code raise where they cannot go on.
UNTRACEABLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip
_NODE = re.compile(r"translating node (%\S+) : .*?call_function\[target=([\w.:]+)\]", re.DOTALL)
_COLOUR = re.compile("\x1b\\[[0-9;]*m")
_LONGEST = 400  # characters of torch's own words


@contextmanager
def refusing(architecture: str, tried: str) -> Iterator[None]:
    """Turn a failure into UnsupportedArchitectureError that names it, what was tried and where.

    The exporter wraps the cause in advice for its developers; the innermost exception is quoted.
    """
    try:
        yield
    except UNTRACEABLE as error:
        raise UnsupportedArchitectureError(
            f"{architecture} cannot be exported. Tried: {tried}. {reason(error)} Models that take "
            "another path through their code for some inputs, or keep another state than keys and "
            "values, are beyond the exporter."
        ) from error


def reason(error: BaseException) -> str:
    """Return the node in question, where the exporter names one, and the innermost cause."""
    causes = list(_causes(error))
    found = (_NODE.search(_COLOUR.sub("", str(cause))) for cause in causes)
    node = next((f"At node {m[1]} ({m[2]}): " for m in found if m), "")
    last = causes[-1]
    said = " ".join(_COLOUR.sub("", str(last)).split()).rstrip(".")
    if len(said) > _LONGEST:
        said = f"{said[:_LONGEST]} .."
    return f"{node}{type(last).__name__}: {said}."


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
