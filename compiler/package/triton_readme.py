"""Tell who serves a packaged model how, in the README.md beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from castline.compiler.package.triton_config import TritonModel, TritonTensor
from castline.compiler.package.triton_interface import is_cached
from castline.compiler.targets.runtime import session_entries


def readme_text(model: TritonModel, manifest: Mapping[str, object], graph: Path) -> str:
    """Return the README.md of a version; `graph` is the ONNX file that the model came from."""
    return "\n\n".join(_paragraphs(model, manifest, graph)) + "\n"


def _paragraphs(model: TritonModel, manifest: Mapping[str, object], graph: Path) -> Iterator[str]:
    yield f"# {model.name}"
    yield (
        f"{manifest.get('source')}, compiled by Castline for Triton's {model.backend} backend. "
        "manifest.json has the hash of every file, the recipe and the figures; `castline verify` "
        "holds this folder to it."
    )
    yield f"    {_command(model, manifest)}"
    build = manifest.get("build")
    if isinstance(build, Mapping) and isinstance(build.get("plugins"), Mapping):
        library = build["plugins"].get("library")
        yield (
            f"The engine needs the plugins in `{library}` here. The server loads them at its "
            "start, as above: give the path of that file. It keeps those of the first library, so "
            "engines with another one need a server of their own."
        )
    if is_cached(model.inputs):
        yield from _of_decoder()
    else:
        yield (
            f"Requests of equal lengths are joined, up to {model.max_batch_size} rows. "
            "Pad texts to a few lengths; attention_mask is 0 for padding."
        )
    if model.backend == "onnxruntime" and (told := _session(graph)):
        yield told
    yield "The server takes, without the rows in front:"
    yield _table("input", model.inputs)
    yield "and gives:"
    yield _table("output", model.outputs)


def _command(model: TritonModel, manifest: Mapping[str, object]) -> str:
    options = []
    build = manifest.get("build")
    facts = build if isinstance(build, Mapping) else {}
    plugins = facts.get("plugins")
    if isinstance(plugins, Mapping):
        options.append(f"--backend-config=tensorrt,plugins={plugins.get('library')}")
    if facts.get("version_compatible") is True:
        options.append("--backend-config=tensorrt,version-compatible=true")
    if is_cached(model.inputs) and model.max_batch_size > 1:
        options.append("--disable-auto-complete-config")
    return " ".join(["tritonserver --model-repository=REPOSITORY", *options])


def _of_decoder() -> Iterator[str]:
    yield (
        "A request is one step: tokens, the mask of all tokens so far, the positions, and the "
        "caches that the step before gave as `present`. The first has caches of length 0. Tokens "
        "come from the tokenizer in this folder; nothing here samples. Caches in CUDA shared "
        "memory of the server's machine spare the way of each step through the network."
    )
    yield (
        "Requests are not joined: that takes rows with caches of one length. For more rows in a "
        "request raise max_batch_size, and start the server with --disable-auto-complete-config: "
        "else it joins requests, and copies their caches."
    )


def _session(graph: Path) -> str:
    entries = session_entries(graph, saturating=True)
    if not entries:
        return ""
    listed = ", ".join(f"`{key}={value}`" for key, value in entries)
    return (
        f"Castline ran it with {listed} in the session's configuration, which this backend has no "
        "way to set. `session.x64quantprecision` matters on x86 processors without VNNI "
        "instructions alone, where sums of INT8 products saturate without it."
    )


def _table(kind: str, tensors: tuple[TritonTensor, ...]) -> str:
    """Return a Markdown table; the caches of all layers but the first are left out."""
    shown = [t for t in tensors if "." not in t.name or ".0." in t.name]
    rows = [f"| `{t.name}` | {t.data_type} | {', '.join(map(str, t.dims))} |" for t in shown]
    return "\n".join([f"| {kind} | type | sizes |", "| --- | --- | --- |", *rows])
