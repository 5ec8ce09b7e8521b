from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from castline.errors import CheckpointError
from castline.exporters.readers import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def offline_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache of the Hub, and let nothing be looked up outside it."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def cached_model(cache: Path, *names: str) -> Path:
    """Lay a model into the cache as huggingface_hub does; return the folder of its files."""
    model = cache / "models--org--model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    snapshot = model / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in names:
        (snapshot / name).touch()
    return snapshot


@pytest.mark.parametrize("source", ["org/model", "HuggingFaceTB/SmolLM2-135M", "a/b.c_d-1"])
def test_takes_org_and_name_for_an_id(source: str) -> None:
    assert hub.is_hub_id(source)


@pytest.mark.parametrize(
    "source",
    [
        "model",
        "./org/model",
        "../model",
        "/org/model",
        "~/model",
        "a/b/c",
        "org/m.gguf",
        "org/",
        "",
    ],
)
def test_takes_other_texts_for_paths(source: str) -> None:
    assert not hub.is_hub_id(source)


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_finds_a_cached_model_while_offline(weights: str, offline_cache: Path) -> None:
    snapshot = cached_model(offline_cache, "config.json", weights)
    assert hub.download("org/model") == snapshot


def test_says_that_an_id_is_not_in_the_cache_while_offline(offline_cache: Path) -> None:
    message = rf"org/absent is not in the cache \({offline_cache}\).*unset HF_HUB_OFFLINE"
    with pytest.raises(CheckpointError, match=message):
        hub.download("org/absent")


def test_fetches_bin_files_only_without_safetensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def snapshot_download(hub_id: str, *, allow_patterns: list[str]) -> str:
        assert hub_id == "org/model"
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    hub.download("org/model")
    assert ["pytorch_model.bin" in patterns for patterns in asked] == [False, True]
    assert all("config.json" in patterns and "*.py" not in patterns for patterns in asked)
    assert all({"modules.json", "[0-9]_*/*"} <= set(patterns) for patterns in asked)
    told_apart = {"hf_quant_config.json", "quantize_config.json", "quant_config.json"}
    assert all(told_apart <= set(patterns) for patterns in asked)
    asked.clear()
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    hub.download("org/model", trust_remote_code=True)
    assert len(asked) == 1
    assert "*.py" in asked[0]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("refused"), "could not be downloaded: refused"),
        (ValueError("bad id"), "could not be downloaded: bad id"),
        (errors.HTTPError("reset"), "could not be downloaded: reset"),
        (errors.LocalEntryNotFoundError("gone"), "is not in the cache"),
    ],
)
def test_says_why_a_download_failed(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=f"org/model .*{message}"):
        hub.download("org/model")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GatedRepoError", "org/model is gated"),
        (
            "RepositoryNotFoundError",
            "no model org/model that you may read, and no folder org/model",
        ),
    ],
)
def test_says_that_a_model_may_not_be_read(
    name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = getattr(errors, name)

    def fail(*_: object, **__: object) -> str:
        raise kind.__new__(kind)  # its initializer wants a whole HTTP response

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message):
        hub.download("org/model")
