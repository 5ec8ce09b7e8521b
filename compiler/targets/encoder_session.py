"""Run an encoder on ONNX Runtime: a vector for each token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from castline.compiler.targets.context import noted_context
from castline.compiler.targets.runtime import (
    float32_from_ortvalue,
    inference_session,
    onnxruntime_module,
    runtime_errors,
)
from castline.compiler.targets.write import MODEL
from castline.errors import TargetError
from castline.exporters.names import (
    ATTENTION_MASK,
    INPUT_IDS,
    LAST_HIDDEN_STATE,
    LOGITS,
    TOKEN_TYPE_IDS,
)

if TYPE_CHECKING:
    import onnxruntime

Tokens: TypeAlias = NDArray[np.int64]
Hidden: TypeAlias = NDArray[np.float32]


class EncoderSession:
    """An encoder graph, loaded."""

    def __init__(
        self, session: onnxruntime.InferenceSession, *, context_length: int | None
    ) -> None:
        self.session = session
        self.context_length = context_length
        self.takes_segments = TOKEN_TYPE_IDS in {node.name for node in session.get_inputs()}

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        threads: int | None = None,
        providers: Sequence[str] | None = None,
    ) -> EncoderSession:
        """Load an output folder, or one `.onnx` file.

        `threads` is the number of threads that one operator may use (None: ONNX Runtime decides);
        `providers` are ONNX Runtime's execution providers (None: CUDA if installed, then CPU).
        Raises TargetError if ONNX Runtime is missing, or cannot load the file, or it is no encoder.
        """
        model = Path(path) / MODEL if Path(path).is_dir() else Path(path)
        session = inference_session(model, threads, providers)
        _require_encoder(session, model)
        return cls(session, context_length=noted_context(session))

    def hidden(
        self,
        input_ids: Tokens,
        attention_mask: Tokens | None = None,
        token_type_ids: Tokens | None = None,
    ) -> Hidden:
        """Return the last hidden state [B, S, hidden] of `input_ids` [B, S].

        `attention_mask` [B, S] is 1 for tokens and 0 for padding; None means no padding.
        `token_type_ids` [B, S] are the segments of a model that has them; None means one segment.
        """
        length = input_ids.shape[1]
        if self.context_length is not None and length > self.context_length:
            raise TargetError(
                f"{length} tokens given, but the model reads {self.context_length} at most. Give "
                "a shorter text, or cut it."
            )
        if token_type_ids is not None and not self.takes_segments:
            raise TargetError("token_type_ids were given, and the model has no segments.")
        feed = {
            INPUT_IDS: input_ids,
            ATTENTION_MASK: np.ones_like(input_ids) if attention_mask is None else attention_mask,
        }
        if self.takes_segments:
            one = np.zeros_like(input_ids)
            feed[TOKEN_TYPE_IDS] = one if token_type_ids is None else token_type_ids
        values = {name: _ortvalue(array) for name, array in feed.items()}
        try:
            (hidden,) = self.session.run_with_ort_values([LAST_HIDDEN_STATE], values)
        except runtime_errors() as error:
            raise TargetError(f"ONNX Runtime could not run the model: {error}") from error
        return float32_from_ortvalue(hidden)


def _ortvalue(tokens: Tokens) -> onnxruntime.OrtValue:
    contiguous = np.ascontiguousarray(tokens, dtype=np.int64)
    return onnxruntime_module().OrtValue.ortvalue_from_numpy(contiguous)


def _require_encoder(session: onnxruntime.InferenceSession, model: Path) -> None:
    inputs = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    known = {INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS}
    if LOGITS in outputs:
        raise TargetError(
            f"{model} is a decoder: it writes text and gives no vectors. Its answers: castline "
            f"generate {model.parent} PROMPT."
        )
    if not {INPUT_IDS, ATTENTION_MASK} <= set(inputs) <= known or LAST_HIDDEN_STATE not in outputs:
        raise TargetError(
            f"{model} is not an encoder: expected the inputs {INPUT_IDS} and {ATTENTION_MASK}, "
            f"with or without {TOKEN_TYPE_IDS}, and the output {LAST_HIDDEN_STATE}; its inputs are "
            f"{', '.join(inputs)}, its outputs {', '.join(outputs)}."
        )
