"""castline inspect: what an ONNX file or an output folder holds."""

# ruff: noqa: PLC0415 - onnx takes a second that --help does not have.

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from castline.cli.failures import Failures
from castline.cli.folds import fold_rows, show_folds
from castline.cli.options import AsJson, Debug, Quiet, TrustRemoteCode
from castline.cli.shown_progress import shown_progress
from castline.compiler.report.numbers import significant, size
from castline.errors import OutputError

if TYPE_CHECKING:
    from castline.compiler.report.inspection import ExternalFile, GraphInspection, Inspection, Port

SHOWN_PORTS = 4
MANIFEST_FACTS = ("source", "recipe", "target", "castline_version")


def inspect(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="An .onnx file or an output folder; with --folds a checkpoint: a Hugging Face "
            "folder, a GGUF file or a hub id.",
            show_default=False,
        ),
    ],
    folds: Annotated[
        bool,
        typer.Option(
            "--folds",
            help="Tell where the checkpoint's graph lets a per-channel scale be folded, which is "
            "what SmoothQuant and AWQ need, and why not elsewhere.",
        ),
    ] = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tell what an ONNX file or an output folder holds, without loading its weights.

    Operators, inputs and outputs, bits per weight and size by layer kind, how weights are
    quantized, whether the files with the weights are there and long enough, and for a folder of
    Castline's what its manifest says. Exit code 1: unreadable, or a file with weights is missing.

    With --folds: a row for every site, which is a value and the linears that read it. A scale is
    foldable where what makes the value can be divided by it and every reader multiplied.

    **Example:** castline inspect build/smollm2

    **Example:** castline inspect HuggingFaceTB/SmolLM2-135M-Instruct --folds
    """
    with Failures(debug=debug):
        if folds:
            _tell_folds(path, trust_remote_code, as_json, quiet)
        else:
            _tell_file(Path(path), as_json)


def _tell_folds(source: str, trust_remote_code: bool, as_json: bool, quiet: bool) -> None:
    with shown_progress(quiet=quiet) as progress:
        rows = fold_rows(source, trust_remote_code, progress)
    if as_json:
        typer.echo(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        show_folds(rows)


def _tell_file(path: Path, as_json: bool) -> None:
    from castline.compiler.report.inspection import inspect_path

    inspection = inspect_path(path)
    manifest = _manifest(path)
    if as_json:
        document = {**inspection.to_json(), "manifest": manifest}
        typer.echo(json.dumps(document, indent=2))
    else:
        _show(inspection, manifest)
    problems = [
        f"{graph.path.parent / file.name} is {file.problem}"
        for graph in inspection.graphs
        for file in graph.external
        if file.problem
    ]
    if problems:
        raise OutputError("\n".join(problems))


def _manifest(path: Path) -> Mapping[str, object] | None:
    from castline.compiler.package.manifest import MANIFEST, read_manifest

    return read_manifest(path) if (path / MANIFEST).is_file() else None


def _show(inspection: Inspection, manifest: Mapping[str, object] | None) -> None:
    from castline.cli.tables import out

    console = out()
    if manifest is not None:
        for name in filter(manifest.get, MANIFEST_FACTS):
            console.print(Text(f"{name.replace('_', ' ')}: {_short(manifest.get(name))}"))
    for graph in inspection.graphs:
        _show_graph(console, graph)
    for engine in inspection.engines:
        console.print(Text(f"{engine.path}: engine, {size(engine.bytes)}", style="bold"))


def _short(fact: object) -> str:
    """A recipe is a mapping in the manifest; its name is enough here."""
    return str(fact.get("name", fact)) if isinstance(fact, Mapping) else str(fact)


def _show_graph(console: Console, graph: GraphInspection) -> None:
    console.print(Text(str(graph.path), style="bold"))
    opsets = ", ".join(f"{domain or 'ai.onnx'} {n}" for domain, n in graph.opsets.items())
    facts = [f"IR {graph.ir_version}, opsets {opsets}"]
    if graph.producer:
        facts.append(f"written by {graph.producer}")
    for domain, counts in graph.operators.items():
        total = sum(counts.values())
        names = ", ".join(f"{name} {count}" for name, count in counts.items())
        facts.append(f"{domain or 'ai.onnx'}: {total:,} nodes: {names}")
    if graph.functions:
        facts.append(f"functions: {', '.join(graph.functions)}")
    facts.append(f"inputs: {_ports(graph.inputs)}")
    facts.append(f"outputs: {_ports(graph.outputs)}")
    facts += [f"quantized: {count} × {form}" for form, count in graph.quantized.items()]
    stored = ", ".join(f"{dtype} {size(amount)}" for dtype, amount in graph.dtypes.items())
    facts.append(f"stored as: {stored or 'nothing'}")
    facts += [_external(file) for file in graph.external]
    for fact in facts:
        console.print(Text(f"  {fact}"))
    console.print(_kinds(graph))


def _kinds(graph: GraphInspection) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("  layers")
    for heading in ("parameters", "size", "bits per weight"):
        table.add_column(heading, justify="right")
    for kind in graph.kinds:
        table.add_row(
            f"  {kind.kind}",
            f"{kind.parameters:,}",
            size(kind.bytes),
            "" if kind.bits_per_weight is None else significant(kind.bits_per_weight),
        )
    bits = "" if graph.bits_per_weight is None else significant(graph.bits_per_weight)
    table.add_row("  all", f"{graph.parameters:,}", size(graph.bytes), bits, style="bold")
    return table


def _ports(ports: tuple[Port, ...]) -> str:
    shown = ", ".join(_port(port) for port in ports[:SHOWN_PORTS])
    more = len(ports) - SHOWN_PORTS
    return f"{shown} and {more} more" if more > 0 else shown


def _port(port: Port) -> str:
    shape = "?" if port.shape is None else ", ".join(map(str, port.shape))
    return f"{port.name} {port.dtype} [{shape}]"


def _external(file: ExternalFile) -> str:
    if file.bytes is None:
        return f"weights in {file.name}: missing"
    return f"weights in {file.name}: {file.problem or size(file.bytes)}"
