"""Write a comparison down so that plain `polygraphy run` commands repeat it."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from polygraphy.comparator import RunResults
from polygraphy.json import save_json

from castline.compiler.check.any_pair import AnyPair, Sides
from castline.compiler.check.engine_reading import BuiltEngine, Reading, engine_reading
from castline.compiler.check.evaluation_text import HeldOutText, first_tokens
from castline.compiler.check.graph_run import GraphRun
from castline.compiler.check.hidden_layers import layer_title, marked_copy, torch_layers
from castline.compiler.check.model_kind import NamedModel
from castline.compiler.check.original import OriginalModel
from castline.compiler.check.original_encoder import OriginalEncoder
from castline.compiler.check.original_runner import Feed
from castline.compiler.check.tensors import quiet_polygraphy
from castline.compiler.graph.layer_boundaries import layer_boundaries
from castline.compiler.targets.last_logits import whole_model
from castline.compiler.targets.runtime import LOG_FATAL_ONLY, onnxruntime_module, runtime_errors
from castline.compiler.targets.tensorrt.reading import external_files
from castline.compiler.targets.write import disk_errors
from castline.errors import OutputError, TargetError
from castline.exporters.names import (
    ATTENTION_MASK,
    INPUT_IDS,
    LAST_HIDDEN_STATE,
    LOGITS,
    WRITE_INDICES,
)

Array: TypeAlias = NDArray[np.generic]

INPUTS = "inputs.json"
ORIGINAL_INPUTS = "original_inputs.json"
ORIGINAL_OUTPUTS = "original_outputs.json"
ENGINE_INPUTS = "engine_inputs.json"
ENGINE_OUTPUTS = "engine_outputs.json"
"""What the original gives, in the form in which the engine gives it."""
RESULT, ORIGINAL = "result", "original"
"""Folders with copies of graphs that give the logits of the last token alone, made whole."""
_ROOM = 1.05  # over the largest difference seen: another ONNX Runtime sums in another order
# An engine rounds elsewhere: a little more of what was seen, and of the largest value, in halves.
_ENGINE_ROOM, _ENGINE_ROUNDING = 1.25, 0.02
_SMALLEST = 1e-6
_ADVICE = "Make room, or give another folder to --save-inputs."
_RTX = "POLYGRAPHY_USE_TENSORRT_RTX=1 "
_PROVIDER = "CPUExecutionProvider"


@dataclass(frozen=True)
class SavedCommands:
    """The commands in the order in which they are to be run, and what there is to know of them."""

    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()


def require_graph(sides: Sides) -> None:
    """Raise OutputError unless the result is a graph, which Polygraphy can run."""
    if sides.result.graph is None:
        raise OutputError(
            f"{sides.result.source}: Polygraphy runs graphs and engines, and this is a checkpoint. "
            "Export it first (castline export), and check what that writes."
        )


def saved_commands(
    sides: Sides,
    pair: AnyPair,
    folder: Path,
    *,
    layers: bool = False,
    engine: BuiltEngine | None = None,
) -> SavedCommands:
    """Write inputs and, of a checkpoint, outputs into `folder`; return the commands that read them.

    Both models read the same tokens once, without padding or past. The tolerance of an output is
    what they differ by here, and a little more. `engine` reads what its graph does, and gets files
    of its own, in its own form: caches of its capacity, the logits of the tokens that it gives. A
    note says why where it cannot read the text. Raises OutputError where the folder cannot be
    written, TargetError where plain ONNX Runtime does not run a graph.
    """
    require_graph(sides)
    main = LOGITS if isinstance(sides.text, HeldOutText) else LAST_HIDDEN_STATE
    tokens: Feed = first_tokens(sides.text)
    reading = None if engine is None else engine_reading(engine, tokens)
    if isinstance(reading, Reading):
        tokens = reading.tokens_of(tokens)
    marks = _common_layers(sides) if layers else {}
    with disk_errors(folder, 0, _ADVICE):
        folder.mkdir(parents=True, exist_ok=True)
        graph, original = _graph(sides.result), sides.original.graph
        graph = _of_all_tokens(graph, folder / RESULT)
        original = None if original is None else _of_all_tokens(original, folder / ORIGINAL)
    feed, found = _run_graph(graph, tokens, layers=layers)
    saved: dict[str, Feed] = {INPUTS: feed}
    if original is None:
        expected = _run_checkpoint(pair, tokens, main, marks)
    else:
        saved[ORIGINAL_INPUTS], expected = _run_graph(original, tokens, layers=layers)
    fixed = any(WRITE_INDICES in fed for fed in saved.values())  # caches of other lengths
    alike = all(expected[name].shape == found[name].shape for name in expected if name in found)
    selected = (main, *marks.values()) if marks or fixed or not alike else ()
    with disk_errors(folder, 0, _ADVICE), quiet_polygraphy():
        for name, content in saved.items():
            save_json([dict(content)], str(folder / name))
        if original is None:
            _save_outputs(expected, folder / ORIGINAL_OUTPUTS)
    compared = {
        name: _apart(expected[name], found[name])
        for name in (selected or expected)
        if name in found
    }
    commands = _commands(graph, original, folder, selected, compared)
    if engine is None or reading is None:
        return SavedCommands(tuple(commands))
    if isinstance(reading, str):
        return SavedCommands(tuple(commands), (no_engine_command(engine.path, reading),))
    given = slice(-1, None) if engine.last_logits else slice(None)
    first, second = ({main: outputs[main][:, given]} for outputs in (expected, found))
    _save_for_engine(reading.inputs_of(feed), first, folder)
    allowed = _tolerances({main: _allowed_of_engine(first[main], second[main])})
    commands.append(_engine_command(engine, reading, folder, allowed))
    return SavedCommands(tuple(commands))


def no_engine_command(engine: Path, reason: str) -> str:
    """Return the note that no command runs an engine."""
    return f"no polygraphy command runs the engine {engine}: {reason}"


def _save_for_engine(feed: Feed, expected: Mapping[str, Array], folder: Path) -> None:
    """Write what the engine is fed with, and what it is to give."""
    needed = sum(array.nbytes for array in feed.values()) * 4 // 3  # base64, in JSON
    with disk_errors(folder, needed, _ADVICE), quiet_polygraphy():
        save_json([dict(feed)], str(folder / ENGINE_INPUTS))
        _save_outputs(expected, folder / ENGINE_OUTPUTS)


def _of_all_tokens(graph: Path, folder: Path) -> Path:
    """Return a graph with the logits of every token: a copy in `folder` where it was cut."""
    whole = whole_model(graph)
    if isinstance(whole, Path):
        return whole
    folder.mkdir(exist_ok=True)
    for name in external_files(onnx.load_from_string(whole)):
        weights = graph.parent / name  # copied: ONNX reads no weights that are linked
        with disk_errors(folder, weights.stat().st_size, _ADVICE):
            shutil.copyfile(weights, folder / name)
    (folder / graph.name).write_bytes(whole)
    return folder / graph.name


def _common_layers(sides: Sides) -> dict[str, str]:
    """Return the title and the name of each layer's hidden state that is named so on both sides."""
    marks = _marks(_graph(sides.result))
    if sides.original.graph is None:
        return marks
    others = _marks(sides.original.graph)
    return {title: name for title, name in marks.items() if others.get(title) == name}


def _marks(graph: Path) -> dict[str, str]:
    boundaries = layer_boundaries(ir.load(graph).graph)
    return {layer_title(index): str(value.name) for index, value in boundaries.items()}


def _run_graph(graph: Path, tokens: Feed, *, layers: bool) -> tuple[Feed, Mapping[str, Array]]:
    """Run a graph as Polygraphy does, with no settings but silence; return its feed and outputs."""
    onnxruntime = onnxruntime_module()
    try:
        with marked_copy(graph) if layers else nullcontext(graph) as file:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = LOG_FATAL_ONLY  # not a warning for each cache copied
            session = onnxruntime.InferenceSession(str(file), options, providers=[_PROVIDER])
            run = GraphRun(session)
            return run.fed(tokens), run(tokens)
    except runtime_errors() as error:
        raise TargetError(f"{graph}: plain ONNX Runtime does not run it: {error}") from error


def _run_checkpoint(
    pair: AnyPair, tokens: Feed, main: str, marks: Mapping[str, str]
) -> Mapping[str, Array]:
    original = pair.original
    ids, mask = (tokens[name].astype(np.int64) for name in (INPUT_IDS, ATTENTION_MASK))
    if isinstance(original, OriginalModel):
        given: dict[str, Array] = {main: original.logits(ids, mask)}
    else:
        assert isinstance(original, OriginalEncoder), "a checkpoint runs in torch"
        given = {main: original.hidden(ids, mask)}
    if marks:
        states = torch_layers(original)(tokens)
        given |= {name: states[title] for title, name in marks.items()}
    return given


def _save_outputs(outputs: Mapping[str, Array], file: Path) -> None:
    results = RunResults()
    results.add([dict(outputs)], runner_name="original")
    results.save(str(file))


def _apart(expected: Array, found: Array) -> float:
    """Return the largest difference of two tensors; nan where one is not finite."""
    with np.errstate(all="ignore"):
        return float(np.abs(expected.astype(np.float64) - found.astype(np.float64)).max())


def _commands(
    graph: Path,
    original: Path | None,
    folder: Path,
    selected: Sequence[str],
    compared: Mapping[str, float],
) -> list[str]:
    runtime = ["--onnxrt", "--providers", "cpu"]
    runtime += ["--onnx-outputs", *selected] if selected else []
    commands = []
    if original is not None:
        inputs, outputs = str(folder / ORIGINAL_INPUTS), str(folder / ORIGINAL_OUTPUTS)
        saving = ["--load-inputs", inputs, "--save-outputs", outputs]
        commands.append(_command([str(original), *runtime, *saving]))
    comparing = _reading(folder / INPUTS, folder / ORIGINAL_OUTPUTS)
    allowed = _tolerances({name: _ROOM * apart for name, apart in compared.items()})
    commands.append(_command([str(graph), *runtime, *comparing, *allowed]))
    return commands


def _reading(inputs: Path, outputs: Path) -> list[str]:
    return ["--load-inputs", str(inputs), "--load-outputs", str(outputs)]


def _allowed_of_engine(expected: Array, found: Array) -> float:
    """Return how far an engine may be from `expected`, where its graph gives `found`."""
    rounding = _ENGINE_ROUNDING * float(np.abs(expected).max())
    return _ENGINE_ROOM * _apart(expected, found) + rounding


def _tolerances(allowed: Mapping[str, float]) -> list[str]:
    """Return the options that allow each output so large a difference, and a trifle."""
    words = [f"{name}:{_tolerance(apart)}" for name, apart in allowed.items()]
    return ["--check-error-stat", "max", "--rtol", "0", "--atol", *words]


def _tolerance(allowed: float) -> str:
    # What is not finite must not pass, whatever it is compared with.
    return f"{allowed + _SMALLEST:.3g}" if math.isfinite(allowed) else "0"


def _command(arguments: Sequence[str], environment: str = "") -> str:
    return f"{environment}polygraphy run {shlex.join(arguments)}"


def _engine_command(
    engine: BuiltEngine, reading: Reading, folder: Path, allowed: Sequence[str]
) -> str:
    """Return the command that runs the engine, on a machine with its TensorRT and its GPU.

    Polygraphy gives a present that is written in place the memory of its past.
    """
    plugins = [] if engine.plugins is None else ["--plugins", str(engine.plugins)]
    loading = [str(engine.path), "--model-type", "engine", "--trt", *plugins]
    loading += ["--optimization-profile", str(reading.profile)]
    comparing = _reading(folder / ENGINE_INPUTS, folder / ENGINE_OUTPUTS)
    return _command([*loading, *comparing, *allowed], _RTX if engine.is_rtx else "")


def _graph(model: NamedModel) -> Path:
    assert model.graph is not None, "required before"
    return model.graph
