"""Documents become chats with the model, packed into samples of one length."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from castline.compiler.calibration.conversations import conversation_samples
from castline.errors import RecipeError

USER, ASSISTANT, END, FIRST = 1, 2, 3, 10
WORDS = ["<unk>", "user", "assistant", "end", "26", "07", "2024", *"789", "w10", "w11", "w12"]
TEMPLATE = "{% for one in messages %}{{ one.role }} {{ one.content }} end {% endfor %}"


def tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of words, for which `w10` is 10, with a chat template."""
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", chat_template=template
    )


def test_a_text_is_a_message_of_the_user() -> None:
    samples = conversation_samples(tokenizer(), ["w10 w11\n"], length=4, count=1, seed=0)
    assert samples.tolist() == [[USER, FIRST, FIRST + 1, END]]


def test_a_conversation_keeps_its_roles() -> None:
    chat = [{"role": "user", "content": "w10"}, {"role": "assistant", "content": "w11"}]
    samples = conversation_samples(tokenizer(), [chat], length=6, count=1, seed=0)
    assert samples.tolist() == [[USER, FIRST, END, ASSISTANT, FIRST + 1, END]]


def test_a_sample_begins_with_a_document_and_is_filled_up_with_others() -> None:
    samples = conversation_samples(tokenizer(), ["w10"] * 4, length=5, count=2, seed=0)
    assert samples.tolist() == [[USER, FIRST, END, USER, FIRST]] * 2


def test_documents_are_taken_at_random_once_by_the_seed() -> None:
    documents = ["w10", "w11", "w12"]

    def order(seed: int) -> list[int]:
        samples = conversation_samples(tokenizer(), documents, length=3, count=3, seed=seed)
        return samples[:, 1].tolist()

    assert order(5) == order(5)
    assert {tuple(sorted(order(seed))) for seed in range(20)} == {(10, 11, 12)}
    assert len({tuple(order(seed)) for seed in range(20)}) > 1


def test_too_few_documents_say_how_many_samples_they_fill() -> None:
    message = r"3 samples of 5 tokens were asked for, and its 4 documents fill 2"
    with pytest.raises(RecipeError, match=message):
        conversation_samples(tokenizer(), ["w10"] * 4, length=5, count=3, seed=0)


def test_a_template_says_the_same_date_on_every_day() -> None:
    dated = tokenizer("{{ strftime_now('%d %m %Y') }}")
    samples = conversation_samples(dated, ["w10"], length=3, count=1, seed=0)
    assert [WORDS[token] for token in samples[0]] == ["26", "07", "2024"]


def test_a_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"has no chat template\. Set chat_template to false"):
        conversation_samples(tokenizer(None), ["w10"], length=3, count=1, seed=0)


def test_a_document_that_the_template_refuses_is_named() -> None:
    refusing = tokenizer("{{ raise_exception('only assistants') }}")
    with pytest.raises(RecipeError, match=r"applied to document 0 .*: only assistants"):
        conversation_samples(refusing, ["w10"], length=3, count=1, seed=0)
