"""Fetch what a compilation needs of a model on the Hugging Face Hub, or find it in the cache."""

from __future__ import annotations

import re
from pathlib import Path

from castline.errors import CheckpointError
from castline.exporters.readers.quantization import SIDE_FILES

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_DESCRIPTION = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "tekken.json",
)  # fmt: skip
# How an encoder's vectors become sentence embeddings; modules have folders such as 1_Pooling.
_SENTENCES = (
    "modules.json", "config_sentence_transformers.json", "sentence_*_config.json", "[0-9]_*/*",
)  # fmt: skip
_SAFETENSORS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
_BIN = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")


def is_hub_id(source: str) -> bool:
    """Return whether a text has the form org/name and does not look like a path."""
    return _HUB_ID.fullmatch(source) is not None and not source.endswith(".gguf")


def download(hub_id: str, *, trust_remote_code: bool = False) -> Path:
    """Return the folder that holds the model's configuration, tokenizer and weights.

    Weights are safetensors or, where the model has none, .bin files. HF_HUB_OFFLINE, HF_HOME and
    HF_TOKEN are respected. The model's own code is fetched only with `trust_remote_code`. Raises
    CheckpointError when the model is neither reachable nor in the cache.
    """
    described = _DESCRIPTION + SIDE_FILES + _SENTENCES + (("*.py",) if trust_remote_code else ())
    folder = _snapshot(hub_id, described + _SAFETENSORS)
    if any(folder.glob("model*.safetensors")):
        return folder
    return _snapshot(hub_id, described + _BIN)


def _snapshot(hub_id: str, patterns: tuple[str, ...]) -> Path:
    # Imported late: its parts take long, and paths do without.
    import huggingface_hub  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    # Of whichever client, httpx or httpx2, the installed version is built on.
    http_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=list(patterns)))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{hub_id} is gated. Ask for access on its page, then log in: hf auth login."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise CheckpointError(
            f"The Hub has no model {hub_id} that you may read, and no folder {hub_id} exists here. "
            "Check the name; for a private model log in: hf auth login."
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{hub_id} is not in the cache ({huggingface_hub.constants.HF_HUB_CACHE}), and the "
            "Hub is offline or cannot be reached. Connect, unset HF_HUB_OFFLINE, or name a folder "
            f"that holds the checkpoint; no folder {hub_id} exists here."
        ) from error
    except (OSError, ValueError, http_error) as error:
        raise CheckpointError(
            f"No folder {hub_id} exists here, and from the Hub it could not be downloaded: {error}"
        ) from error
