"""The C++ program, on a fake CUDA and a fake TensorRT; its tokens are computed here once more."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.tensorrt  # it is compiled with the headers and tools of the plugins

PROMPT = [7, 3, 11, 20, 5, 1, 42]
FLOAT, HALF, BFLOAT16 = 0, 1, 7
HEADS, SIZE = 2, 3

Folder = Callable[..., Path]


def continuation(
    prompt: list[int], count: int, *, layers: int = 2, vocabulary: int = 50
) -> list[int]:
    """Return the fake decoder's greedy tokens, from whole sequences and without a cache.

    Each place p weighs (p + 1) * key + value, where keys are token * (layer + 1) + 3 * head + d and
    values are positions; these are sums over layers, heads and d, done by hand.
    """
    tokens = list(prompt)
    for _ in range(count):
        target = 0
        for place, token in enumerate(tokens):
            scales = HEADS * SIZE * sum(range(1, layers + 1))
            offsets = layers * sum(3 * head + d for head in range(HEADS) for d in range(SIZE))
            target += (place + 1) * (token * scales + offsets) + layers * HEADS * SIZE * place
        tokens.append(target % vocabulary)
    return tokens[len(prompt) :]


def manifest(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return document


def write(folder: Path, document: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize("capacity", [0, 20], ids=["growing", "fixed"])
@pytest.mark.parametrize("last", [0, 1], ids=["all logits", "last logits"])
def test_generates_after_a_prompt_read_in_pieces(
    capacity: int, last: int, engine_folder: Folder, generate: Any
) -> None:
    ran = generate(engine_folder(capacity=capacity, last=last), *PROMPT, "--tokens", 6)
    assert ran.error.startswith("tokens: 6 after a prompt of 7; prefill ")
    assert ran.tokens == continuation(PROMPT, 6)
    assert ran.counts["live"] == 0


@pytest.mark.parametrize("kind", [HALF, BFLOAT16], ids=["float16", "bfloat16"])
def test_reads_logits_of_two_bytes_and_feeds_tokens_of_four(
    kind: int, engine_folder: Folder, generate: Any
) -> None:
    ran = generate(engine_folder(type=kind, int32=1), *PROMPT, "--tokens", 5)
    assert ran.tokens == continuation(PROMPT, 5), ran.error


@pytest.mark.parametrize(
    ("capacity", "options", "launches"),
    [(20, (), 6), (20, ("--no-graph",), 0), (0, (), 0)],
    ids=["fixed", "fixed without", "growing"],
)
def test_a_fixed_cache_is_decoded_by_a_graph_after_one_plain_token(
    capacity: int, options: tuple[str, ...], launches: int, engine_folder: Folder, generate: Any
) -> None:
    ran = generate(engine_folder(capacity=capacity, past=16), *PROMPT, "--tokens", 8, *options)
    assert ran.tokens == continuation(PROMPT, 8), ran.error
    assert ran.counts["launches"] == launches  # of 7 that are decoded, the first is plain


def test_one_profile_serves_both_phases(engine_folder: Folder, generate: Any) -> None:
    ran = generate(engine_folder(profiles=1, sequence=8), *PROMPT, "--tokens", 4)
    assert ran.tokens == continuation(PROMPT, 4), ran.error


@pytest.mark.parametrize(("capacity", "past"), [(10, 12), (0, 9)], ids=["fixed", "growing"])
def test_ends_when_the_cache_is_full(
    capacity: int, past: int, engine_folder: Folder, generate: Any
) -> None:
    ran = generate(engine_folder(capacity=capacity, past=past), *PROMPT)
    assert ran.tokens == continuation(PROMPT, 4), ran.error  # 10 places hold all but the last
    assert ran.error.startswith("the cache is full\ntokens: 4 ")


def test_stops_before_a_stop_token_and_takes_the_prompt_from_standard_input(
    engine_folder: Folder, generate: Any
) -> None:
    wanted = continuation(PROMPT, 5)
    assert wanted[3] not in wanted[:3]
    text = "\n".join(map(str, PROMPT))
    ran = generate(engine_folder(), "--stop", 49, "--stop", wanted[3], stdin=text)
    assert ran.tokens == wanted[:3], ran.error


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        (["8.6", "8.9"], "8.6, 8.9: build"),
        ("default", "that its builder takes by default: build"),
        (None, "not told: build"),
    ],
)
def test_an_engine_that_is_refused_is_told_with_what_it_was_built_for(
    capabilities: object, words: str, engine_folder: Folder, generate: Any
) -> None:
    folder = engine_folder()
    engine = folder / "model.engine"
    engine.write_bytes(engine.read_bytes().replace(b"fake", b"real"))
    document = manifest(folder)
    document["build"]["compute_capabilities"] = capabilities
    write(folder, document)
    ran = generate(folder, *PROMPT)
    assert f"It was built by 10.14.1.48 for compute capability {words} it again" in ran.error


def test_loads_the_plugins_that_came_with_the_engine(engine_folder: Folder, generate: Any) -> None:
    folder = engine_folder(plugins=True)
    assert generate(folder, *PROMPT, "--tokens", 2).tokens == continuation(PROMPT, 2)
    document = manifest(folder)
    document["build"]["plugins"] = None
    write(folder, document)
    ran = generate(folder, *PROMPT)
    assert "does not load" in ran.error
    assert "(a plugin of the engine is not registered)" in ran.error
    assert "It was built by 10.14.1.48 for compute capability 8.9" in ran.error


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 1 << 20, (1 << 20) + 60])
def test_another_plugin_library_is_not_loaded(
    size: int, engine_folder: Folder, generate: Any
) -> None:
    folder = engine_folder(plugins=True)
    other = bytes(i * 7 % 251 for i in range(size))
    library = folder / "plugins" / "libcastline_plugins.so"
    library.write_bytes(other)
    ran = generate(folder, *PROMPT)
    assert ran.code == 1
    assert f"has the SHA-256 {hashlib.sha256(other).hexdigest()}, but the engine" in ran.error
    assert "is not loaded" in ran.error


def test_a_plugin_library_that_tensorrt_refuses_is_named(
    engine_folder: Folder, generate: Any
) -> None:
    folder = engine_folder(plugins=True)
    document = manifest(folder)
    library = folder / "plugins" / "libcastline_plugins.so"
    library.write_bytes(b"no library")
    document["build"]["plugins"]["sha256"] = hashlib.sha256(b"no library").hexdigest()
    write(folder, document)
    ran = generate(folder, *PROMPT)
    assert f"does not take the plugins of {library}" in ran.error
    assert "castline plugins build --force" in ran.error


def damaged(document: dict[str, Any], names: str, value: object) -> None:
    *path, last = names.split(".")
    for name in path:
        document = document[name]
    document[last] = value


@pytest.mark.parametrize(
    ("names", "value", "words"),
    [
        ("build.edition", 5, "build.edition: expected a string"),
        ("build.version", None, "build.version: expected a string"),
        ("files", {}, "files.model.engine.size: expected a number of bytes"),
        ("build.engine", "../model.engine", "outside of the folder"),
        ("build.engine", "/model.engine", "outside of the folder"),
        ("build", {}, "has no engine: compile the model with --target tensorrt"),
        ("build.weights_stripped", True, "has an engine without its weights: put them in"),
        ("build.plugins", {"sha256": "0"}, "build.plugins.library: expected a string"),
        ("build.edition", "tensorrt-rtx", "this program is compiled for tensorrt:"),
    ],
)
def test_a_manifest_that_says_something_else_is_an_error(
    names: str, value: object, words: str, engine_folder: Folder, generate: Any
) -> None:
    folder = engine_folder()
    document = manifest(folder)
    damaged(document, names, value)
    write(folder, document)
    ran = generate(folder, *PROMPT)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected a value"),
        ('{"a": 1,}', "line 1: expected '\"'"),
        ('{"a": [1 2]}', "line 1: expected ']'"),
        ('{\n"a": 01}', "line 2: expected a value"),
        ('{\n\n"a": "x', "line 3: expected the end of the string"),
        ('{"a": "\\q"}', "line 1: expected an escape"),
        ('{"a": "\\ud800"}', "line 1: expected the other half"),
        ('{"a": tru}', "line 1: expected a value"),
        ("{} {}", "line 1: expected nothing more"),
        ("[" * 100, "line 1: expected at most 64 levels"),
        ('{"a": 1.}', "line 1: expected digits after the point"),
    ],
)
def test_what_is_no_json_is_told_by_the_line(
    text: str, words: str, engine_folder: Folder, generate: Any
) -> None:
    folder = engine_folder()
    (folder / "manifest.json").write_text(text)
    ran = generate(folder, *PROMPT)
    assert f"manifest.json: {words}" in ran.error


def test_reads_every_kind_of_json(engine_folder: Folder, generate: Any) -> None:
    folder = engine_folder()
    name = 'modèle \U0001f600\t"\\.engine'
    (folder / "model.engine").rename(folder / name)
    document = manifest(folder)
    document["build"]["engine"] = name
    document["files"][name] = document["files"].pop("model.engine")
    extra = {"list": [-1.5e-3, 2e9, True, False, None, [], {}, "/\b\f\n\r"], "": "\u00e9\uffff"}
    for escape in (True, False):
        text = json.dumps({"extra": extra, **document}, ensure_ascii=escape, indent=1)
        (folder / "manifest.json").write_text(text, encoding="utf-8")
        assert generate(folder, *PROMPT, "--tokens", 1).tokens == continuation(PROMPT, 1)


def test_a_missing_or_shortened_engine_is_told(engine_folder: Folder, generate: Any) -> None:
    folder = engine_folder()
    engine = folder / "model.engine"
    whole = engine.read_bytes()
    engine.write_bytes(whole[:-4])
    words = f"{engine} has {len(whole) - 4} bytes, expected {len(whole)}; compile the model again"
    assert words in generate(folder, *PROMPT).error
    engine.write_bytes(whole[:-4] + b"not\n")
    assert "(the serialized engine is not one, or not whole)" in generate(folder, *PROMPT).error
    engine.unlink()
    assert f"{engine} cannot be read" in generate(folder, *PROMPT).error


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"FAKE_CUDA_STATUS": "35"}, "no NVIDIA driver that this program can use (CUDA driver"),
        ({"FAKE_CUDA_STATUS": "100", "FAKE_CUDA_DEVICES": "0"}, "no NVIDIA GPU here"),
        ({"FAKE_CUDA_STATUS": "2"}, "CUDA failed in looking for a GPU: out of memory"),
        ({"FAKE_CUDA_MEMORY": "2000"}, "the GPU has no 1 MB for "),
        ({"FAKE_CUDA_PINNED": "4"}, "this machine has no 1 MB of pinned host memory for "),
        ({"FAKE_TENSORRT_VERSION": "110001"}, "headers of TensorRT 10.14.1, but the library is 11"),
    ],
)
def test_says_what_the_machine_lacks(
    environment: dict[str, str], words: str, engine_folder: Folder, generate: Any
) -> None:
    ran = generate(engine_folder(), *PROMPT, **environment)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.error


def test_another_library_for_tensorrt_is_told(engine_folder: Folder, generate: Any) -> None:
    folder = engine_folder()
    ran = generate(folder, *PROMPT, "--tensorrt", "/absent/libnvinfer.so.10")
    assert "TensorRT cannot be loaded (/absent/libnvinfer.so.10: " in ran.error
    ran = generate(folder, *PROMPT, "--tensorrt", "libc.so.6")
    assert "is another one: it has no getInferLibVersion" in ran.error


def test_an_engine_that_gives_no_numbers_is_told(engine_folder: Folder, generate: Any) -> None:
    assert "logit 0 is not a number" in generate(engine_folder(broken=1), *PROMPT).error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tokens",), "--tokens needs a value"),
        (("--tokens", "x"), '--tokens is "x": expected a whole number'),
        (("--fast",), "there is no option --fast"),
        (("3", "x"), 'a token id is "x"'),
        (("3", "50"), "the token id 50 is not of the vocabulary, which has 50"),
        ((), "the prompt has no tokens"),
        (tuple("1" * 17), "the prompt has 17 tokens, and the engine reads 16 at most"),
    ],
)
def test_arguments_that_cannot_be_are_told(
    arguments: tuple[str, ...], words: str, engine_folder: Folder, generate: Any
) -> None:
    ran = generate(engine_folder(), *arguments)
    assert (ran.code, ran.out) == (1, "")
    assert ran.error.startswith("error: ")
    assert words in ran.error


def test_help_and_a_missing_folder(generate: Any) -> None:
    shown = generate("--help")
    assert shown.code == 0
    assert shown.out.startswith("usage: engine_in_cpp OUT [ID ...]")
    assert "the folder OUT is missing" in generate().error
    assert "manifest.json cannot be read: give the folder" in generate("/absent").error


@pytest.mark.parametrize("capacity", [0, 20], ids=["growing", "fixed"])
def test_tensorrt_rtx_records_by_itself_as_long_as_it_runs(
    capacity: int, engine_folder: Folder, generate_by_rtx: Any
) -> None:
    """The fake ends the program if what was asked for is destroyed before the context is."""
    folder = engine_folder(edition="tensorrt-rtx", capacity=capacity, past=16)
    ran = generate_by_rtx(folder, *PROMPT, "--tokens", 6)
    assert (ran.code, ran.tokens) == (0, continuation(PROMPT, 6)), ran.error
    assert (ran.counts["launches"], ran.counts["live"]) == (0, 0)


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")
def test_without_a_driver_the_cuda_runtime_says_so(engine_folder: Folder, built: Any) -> None:
    command = [str(built.program), str(engine_folder()), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no NVIDIA driver that this program can use" in done.stderr
    assert "castline generate" in done.stderr


def test_the_library_of_another_edition_is_refused(engine_folder: Folder, generate: Any) -> None:
    libraries = importlib.util.find_spec("tensorrt_rtx_libs")
    if libraries is None or not libraries.submodule_search_locations:
        pytest.skip("TensorRT-RTX is not installed")
    (file,) = Path(libraries.submodule_search_locations[0]).glob("libtensorrt_rtx.so.*")
    ran = generate(engine_folder(), *PROMPT, "--tensorrt", file)
    assert "headers of TensorRT 10.14.1, but the library is 1." in ran.error
