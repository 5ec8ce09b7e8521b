"""Take the largest sizes of an engine as people of this field name them."""

from __future__ import annotations

from dataclasses import dataclass, fields

from castline.compiler.targets.tensorrt.profile import BATCH, PAST, SEQUENCE, Profile, Range
from castline.errors import TargetError


@dataclass(frozen=True)
class Sizes:
    """The largest batch, prompt, and length of prompt and answer; None: Castline's default.

    The names are TensorRT-LLM's.

    Raises:
        TargetError: one is below 1, or a prompt is longer than prompt and answer.
    """

    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and value < 1:
                raise TargetError(f"{_flag(field.name)} {value}: expected 1 or more.")
        if self.max_input_len and self.max_seq_len and self.max_input_len > self.max_seq_len:
            raise TargetError(
                f"--max-input-len {self.max_input_len} is above --max-seq-len {self.max_seq_len}, "
                "which counts the prompt, too."
            )

    def refused(self, context_length: int) -> tuple[str, ...]:
        """Return a sentence for each length that a model of so many positions does not reach."""
        return tuple(
            f"{_flag(name)} {value}: the model reads {context_length} tokens at most."
            for name in ("max_input_len", "max_seq_len")
            if (value := getattr(self, name)) is not None and value > context_length
        )

    def profile(self, context_length: int, batch: Range = BATCH) -> Profile:
        """Return the sizes an engine accepts, for a model of so many positions.

        `batch` is what it has where --max-batch-size says nothing.

        A prompt may be read in pieces: --max-input-len is what one run takes, and the cache before
        it holds all but one of --max-seq-len tokens.
        """
        profile = Profile(
            batch=_up_to(batch, self.max_batch_size),
            sequence=_up_to(SEQUENCE, self.max_input_len),
            past=_up_to(PAST, None if self.max_seq_len is None else self.max_seq_len - 1),
        )
        return profile.clipped(min(context_length, self.max_seq_len or context_length))


def _up_to(sizes: Range, largest: int | None) -> Range:
    return sizes if largest is None else Range(sizes.min, min(sizes.opt, largest), largest)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
