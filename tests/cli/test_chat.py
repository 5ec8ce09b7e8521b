from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from castline.cli.chat import chat_text, speaker
from castline.errors import OutputError

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
TEMPLATE = """\
{% for message in messages %}
<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}
<|assistant|>
{%- endif %}"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = ["<s>", "</s>", "<end>", "<|user|>", "<|assistant|>", "hello"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $0", None, [("<s>", 0)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    )
    return tmp_path


def test_renders_blocks_as_transformers_does() -> None:
    assert chat_text(TEMPLATE, "hello", SPECIAL) == "<|user|>hello</s>\n<|assistant|>"


def test_a_template_may_use_what_those_of_checkpoints_use() -> None:
    template = (
        "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}"
        "{% generation %}{{ m | tojson }}{% endgeneration %}{% endfor %}{{ strftime_now('%%') }}"
    )
    assert chat_text(template, "é", {}) == '{"role": "user", "content": "é"}%'


def test_a_template_cannot_reach_out_of_its_sandbox() -> None:
    for template in ("{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"):
        with pytest.raises(OutputError, match="chat template cannot be applied"):
            chat_text(template, "hello", {})


@pytest.mark.parametrize("template", ["{{ raise_exception('roles!') }}", "{% if %}"])
def test_a_template_that_fails_is_named_with_the_way_out(template: str) -> None:
    with pytest.raises(OutputError, match="--raw"):
        chat_text(template, "hello", {})


def test_a_prompt_goes_through_the_template_unless_raw(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    speaking = speaker(folder)
    assert speaking.tokens("hello", raw=False) == [3, 5, 1, 4]
    assert speaking.tokens("hello", raw=True) == [0, 5]


def test_without_a_template_the_prompt_is_taken_as_it_is(folder: Path) -> None:
    assert speaker(folder).tokens("hello", raw=False) == [0, 5]


@pytest.mark.parametrize(
    "template",
    ["{{ 1 }}", [{"name": "tool", "template": "x"}, {"name": "default", "template": "{{ 1 }}"}]],
)
def test_a_template_may_stand_in_the_tokenizers_settings(folder: Path, template: object) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    assert speaker(folder).template == "{{ 1 }}"


def test_stop_tokens_come_from_all_settings_and_else_from_the_tokenizer(folder: Path) -> None:
    assert speaker(folder).stop == {1}
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    assert speaker(folder).stop == {2}
    (folder / "genai_config.json").write_text('{"model": {"eos_token_id": [1, 4]}}')
    assert speaker(folder).stop == {1, 2, 4}


def test_a_missing_or_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(OutputError, match=r"generation_config\.json: expected JSON"):
        speaker(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(OutputError, match=r"tokenizer\.json: not a tokenizer"):
        speaker(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(OutputError, match=r"tokenizer\.json does not exist"):
        speaker(folder)
