from __future__ import annotations

from tokenizers import Tokenizer

from castline.cli.answer import Clock, text_pieces

EOS = 256


def test_a_character_is_given_when_it_is_whole(byte_tokenizer: Tokenizer) -> None:
    pieces = list(text_pieces(byte_tokenizer, "aé☕".encode()))
    assert pieces == ["a", "é", "☕"]


def test_a_character_that_is_never_whole_is_left_out(byte_tokenizer: Tokenizer) -> None:
    assert list(text_pieces(byte_tokenizer, "a☕".encode()[:-1])) == ["a"]


def test_special_tokens_are_not_text(byte_tokenizer: Tokenizer) -> None:
    assert "".join(text_pieces(byte_tokenizer, [97, EOS, 98])) == "ab"


def test_the_clock_tells_prefill_from_decode() -> None:
    clock = Clock(prompt_tokens=4)
    assert list(clock.timed(iter([1, 2, 3]))) == [1, 2, 3]
    assert clock.new_tokens == 3
    assert clock.prefill is not None
    assert clock.decode is not None
    silent = Clock(prompt_tokens=4)
    assert list(silent.timed(iter([]))) == []
    assert silent.decode is None
