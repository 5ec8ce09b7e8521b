"""Run a decoder's folder under onnxruntime-genai, by its own loop and search."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from castline.compiler.targets.generation import GREEDY, Tokens, room_for
from castline.compiler.targets.sampling import Sampling
from castline.compiler.targets.session import run_config
from castline.errors import TargetError
from castline.exporters.names import WRITE_INDICES

CONFIG = "genai_config.json"
_LARGEST_SEED = 2**31 - 1  # the option is a signed number of 32 bits


class GenaiSession:
    """A folder with a genai_config.json, loaded by onnxruntime-genai.

    It draws tokens by its own search: greedy text is that of `DecoderSession`, but the same seed
    draws another text.
    """

    def __init__(self, genai: Any, model: Any, *, context_length: int | None) -> None:
        self._genai = genai
        self._model = model
        self.context_length = context_length

    @classmethod
    def open(cls, folder: Path, *, threads: int | None = None) -> GenaiSession:
        """Load the folder with the execution providers that its genai_config.json names.

        `threads` is the number of threads that one operator may use (None: ONNX Runtime decides).
        Raises TargetError if onnxruntime-genai is missing, or does not take the folder.
        """
        if not (folder / CONFIG).is_file():
            raise TargetError(
                f"{folder} has no {CONFIG}, without which onnxruntime-genai loads nothing. Give "
                "the folder of a decoder that `castline compile --target onnxruntime` wrote."
            )
        genai = genai_module()
        settings = run_config(folder)
        _refuse_fixed_cache(folder / settings.file)
        try:
            config = genai.Config(str(folder))
            if threads is not None:
                options = {"session_options": {"intra_op_num_threads": threads}}
                config.overlay(json.dumps({"model": {"decoder": options}}))
            return cls(genai, genai.Model(config), context_length=settings.context_length)
        except RuntimeError as error:
            raise TargetError(
                f"{folder}: onnxruntime-genai {genai.__version__} cannot load it: {error}"
            ) from error

    def generate(
        self,
        input_ids: Tokens,
        *,
        max_new_tokens: int,
        sampling: Sampling = GREEDY,
        stop: frozenset[int] = frozenset(),
    ) -> Iterator[int]:
        """Yield what follows the prompt `input_ids` [1, S], token by token.

        Ends before the first token in `stop`, or at one that genai_config.json names, after
        `max_new_tokens`, or when the model's context is full.
        """
        prompt, capacity = room_for(input_ids, max_new_tokens, self.context_length)
        if prompt > capacity:
            raise TargetError(
                f"{prompt} tokens asked for, but the model's context length is {capacity}. Give a "
                "shorter prompt."
            )
        try:
            yield from self._tokens(input_ids, capacity, sampling, stop)
        except RuntimeError as error:
            raise TargetError(f"onnxruntime-genai could not run the model: {error}") from error

    def _tokens(
        self, input_ids: Tokens, capacity: int, sampling: Sampling, stop: frozenset[int]
    ) -> Iterator[int]:
        if capacity == input_ids.shape[1]:
            return
        parameters = self._genai.GeneratorParams(self._model)
        parameters.set_search_options(max_length=capacity, **search_options(sampling))
        generator = self._genai.Generator(self._model, parameters)
        generator.append_tokens(np.ascontiguousarray(input_ids, dtype=np.int32))
        while not generator.is_done():
            generator.generate_next_token()
            token = int(generator.get_next_tokens()[0])
            if token in stop:
                return
            yield token


def _refuse_fixed_cache(model: Path) -> None:
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except (OSError, DecodeError):  # onnxruntime-genai says what is wrong
        return
    if any(value.name == WRITE_INDICES for value in graph.input):
        raise TargetError(
            f"{model} has a fixed cache and takes {WRITE_INDICES}, which onnxruntime-genai does "
            "not give. Use --runtime onnxruntime, or compile with --target onnxruntime."
        )


def search_options(sampling: Sampling) -> dict[str, bool | int | float]:
    """Return onnxruntime-genai's words for how to draw; all of them, over the folder's own."""
    drawn = sampling.temperature > 0
    options: dict[str, bool | int | float] = {
        "do_sample": drawn,
        "temperature": sampling.temperature if drawn else 1.0,
        "top_k": (sampling.top_k or 0) if drawn else 1,  # 0: all of them
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.seed is not None:
        options["random_seed"] = sampling.seed % _LARGEST_SEED
    return options


def genai_module() -> ModuleType:
    """Return the module onnxruntime_genai, or raise TargetError that says how to install it."""
    try:
        import onnxruntime_genai  # noqa: PLC0415 - optional
    except ImportError as error:
        raise TargetError(
            "onnxruntime-genai is not installed: pip install onnxruntime-genai, or for NVIDIA "
            "GPUs: pip install onnxruntime-genai-cuda. --runtime onnxruntime runs the same folder "
            "without it."
        ) from error
    return onnxruntime_genai  # type: ignore[no-any-return]
