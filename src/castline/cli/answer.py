"""Turn a model's tokens into text as they come, and time them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


@dataclass
class Clock:
    """Times the tokens of one answer as they come."""

    prompt_tokens: int
    new_tokens: int = 0
    prefill_seconds: float = 0.0
    """Until the first token: reading the prompt."""
    decode_seconds: float = 0.0
    """For all tokens after the first."""

    def timed(self, tokens: Iterator[int]) -> Iterator[int]:
        """Pass the tokens on, counting only the time the model takes."""
        while True:
            began = time.perf_counter()
            token = next(tokens, None)
            seconds = time.perf_counter() - began
            if self.prefill_seconds == 0:
                self.prefill_seconds = seconds
            else:
                self.decode_seconds += seconds
            if token is None:
                return
            self.new_tokens += 1
            yield token

    @property
    def prefill(self) -> float | None:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else None

    @property
    def decode(self) -> float | None:
        """New tokens per second after the first; None for answers too short to tell."""
        later = self.new_tokens - 1
        return later / self.decode_seconds if later > 0 and self.decode_seconds else None

    def to_json(self) -> dict[str, float | None]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "prefill_tokens_per_second": self.prefill,
            "decode_tokens_per_second": self.decode,
        }


def text_pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Yield the text of `tokens` as soon as it is certain.

    A character may span several tokens, and a space may depend on the next: nothing is given
    before it is whole, and the bytes of a character that never became whole are left out.
    """
    stream = DecodeStream(skip_special_tokens=True)
    for token in tokens:
        piece = stream.step(tokenizer, token)
        if piece:
            yield piece
