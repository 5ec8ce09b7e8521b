"""Put weights back into an engine that was stripped of them, inside the builder's process.

The whole way, in a process of its own, is in tests/compiler/test_rebuilding.py.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from castline.compiler.targets.tensorrt.refitting import RefitError, refitted


class Engine:
    """An engine that says which weights it lacks, and how refitting it goes."""

    def __init__(self, missing: list[str], *, parses: bool = True, takes: bool = True) -> None:
        self.missing = missing
        self.parses = parses
        self.takes = takes

    def create_serialization_config(self) -> Any:
        return SimpleNamespace(clear_flag=lambda _flag: True)

    def serialize_with_config(self, _config: object) -> None:
        return None


def tensorrt(engine: Engine | None) -> Any:
    """Return what stands for the module tensorrt, which loads `engine`."""

    def parser(refitter: Any, _logger: object) -> Any:
        return SimpleNamespace(
            refit_from_file=lambda _path: refitter.parses,
            num_errors=1,
            get_error=lambda _index: SimpleNamespace(desc=lambda: "w has 4 values, not 8"),
        )

    def refitter(loaded: Engine, _logger: object) -> Any:
        return SimpleNamespace(
            parses=loaded.parses,
            get_missing_weights=lambda: loaded.missing,
            refit_cuda_engine=lambda: loaded.takes,
        )

    return SimpleNamespace(
        __version__="11.4",
        Runtime=lambda _logger: SimpleNamespace(deserialize_cuda_engine=lambda _bytes: engine),
        Refitter=refitter,
        OnnxParserRefitter=parser,
        SerializationFlag=SimpleNamespace(EXCLUDE_WEIGHTS=0),
    )


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (None, r"TensorRT 11\.4 does not load model\.engine"),
        (Engine([], parses=False), r"do not fit: w has 4 values, not 8"),
        (Engine(["a", "b"]), r"2 weights of the engine are not in model\.onnx: a, b"),
        (Engine([], takes=False), r"were not taken"),
        (Engine([]), r"could not be serialized"),
    ],
)
def test_what_does_not_fit_is_told(
    engine: Engine | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polygraphy.backend.trt.util.get_trt_logger", lambda: None)
    (tmp_path / "model.engine").write_bytes(b"")
    with pytest.raises(RefitError, match=words):
        refitted(tmp_path / "model.engine", tmp_path / "model.onnx", tensorrt(engine))
