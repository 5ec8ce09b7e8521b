"""Export a model as `castline export` does, and print how long every stage took, as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from castline.compiler.pipeline import export_model


class Stopwatch:
    """Progress that notes seconds by title."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(
        self,
        title: str,
        total: float | None = None,  # noqa: ARG002 - the protocol's signature
        unit: str = "",  # noqa: ARG002
    ) -> Iterator[Callable[[float], None]]:
        start = time.perf_counter()
        yield lambda _amount: None
        self.seconds[title] = round(time.perf_counter() - start, 3)


def main() -> None:
    stopwatch = Stopwatch()
    export_model(
        sys.argv[1],
        Path(sys.argv[2]),
        dtype="float32",
        overwrite=False,
        trust_remote_code=False,
        progress=stopwatch,
    )
    print(json.dumps(stopwatch.seconds))


if __name__ == "__main__":
    main()
