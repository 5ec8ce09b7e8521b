"""Turn contexts and continuations into tokens as lm-evaluation-harness does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from castline.compiler.check.tasks.task import Request
from castline.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenPair:
    """What is read, and what is asked for after it; neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class PairEncoder:
    """Encodes requests for a model that reads `most` tokens at once."""

    tokenizer: PreTrainedTokenizerBase
    most: int

    def encode(self, request: Request) -> TokenPair:
        """Return the tokens of a request, its context cut on the left to what the model reads.

        White space that ends the context begins the continuation. Both are encoded as one text,
        which is split after as many tokens as the context has alone; an empty context is the token
        that begins or ends texts. Source: lm-evaluation-harness 0.4, `TemplateLM._encode_pair`.
        Raises OutputError for a continuation that the model cannot read whole.
        """
        pair = self._pair(request)
        room = self.most + 1 - len(pair.continuation)  # the last token is predicted, not read
        if not pair.continuation or room < 1:
            raise OutputError(
                f"{request.continuation[:40]!r} has {len(pair.continuation)} tokens after its "
                f"context, and the model reads {self.most}: expected at least one, and room for "
                "one token of the context. Leave this document out."
            )
        return TokenPair(pair.context[-room:], pair.continuation)

    def _pair(self, request: Request) -> TokenPair:
        context = request.context.rstrip()
        if not context:
            tokens = self._tokens(request.context + request.continuation, special=False)
            begin = self._beginning()
            # A text that begins with that token itself is not given it twice.
            return _split([begin, *tokens] if tokens[:1] != [begin] else tokens, 1)
        whole = self._tokens(request.context + request.continuation)
        alone = self._tokens(context)
        return TokenPair(tuple(alone), tuple(whole[len(alone) :]))

    def _beginning(self) -> int:
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise CheckpointError(
            "The tokenizer has no token that begins or ends texts, and a document has no context. "
            "Give each document one."
        )

    def _tokens(self, text: str, *, special: bool = True) -> list[int]:
        bos = self.tokenizer.bos_token
        special = special and not (bos and text.startswith(bos))
        return list(self.tokenizer.encode(text, add_special_tokens=special, verbose=False))


def _split(tokens: Sequence[int], place: int) -> TokenPair:
    return TokenPair(tuple(tokens[:place]), tuple(tokens[place:]))
