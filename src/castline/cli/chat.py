"""Turn a prompt into tokens as the model expects them, and say which tokens end its answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from castline.errors import OutputError

# A template of a checkpoint may say anything; loops and text are all that one needs.
_SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token")


@dataclass(frozen=True)
class Speaker:
    """The tokenizer of an output folder, its chat template if it has one, and its stop tokens."""

    tokenizer: Tokenizer
    template: str | None
    special: Mapping[str, str]
    stop: frozenset[int]

    def tokens(self, prompt: str, *, raw: bool) -> list[int]:
        """The tokens of `prompt` as a user's message, or as it is if `raw` or without a template.

        Raises OutputError when the template cannot be applied.
        """
        if raw or self.template is None:
            return list(self.tokenizer.encode(prompt).ids)
        text = chat_text(self.template, prompt, self.special)
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)


def speaker(folder: Path) -> Speaker:
    """Read the tokenizer and its settings from an output folder.

    Raises OutputError when there is no readable tokenizer.json.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise OutputError(
            f"{path} does not exist, so no text can be turned into tokens. Give a folder that "
            "`castline compile` or `castline export` wrote."
        )
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except ValueError as error:
        raise OutputError(f"{path}: not a tokenizer: {error}. Compile the model again.") from error
    settings = _json_object(folder / "tokenizer_config.json")
    special = {name: text for name in _SPECIAL if (text := _token_text(settings.get(name)))}
    return Speaker(
        tokenizer, _template(folder, settings), special, _stop(folder, special, tokenizer)
    )


def chat_text(template: str, prompt: str, special: Mapping[str, str]) -> str:
    """Render a chat template with one user's message, as transformers does, in a sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    messages = [{"role": "user", "content": prompt}]
    try:
        return environment.from_string(template).render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None, **special
        )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise OutputError(
            f"the model's chat template cannot be applied: {error}. Use --raw to give the prompt "
            "as it is."
        ) from error


class _Generation(Extension):
    """{% generation %} marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 reads the class attribute

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _template(folder: Path, settings: Mapping[str, object]) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name, of which "default" is for chatting
        by_name = {one.get("name"): one.get("template") for one in template}
        template = by_name.get("default")
    return template if isinstance(template, str) else None


def _stop(folder: Path, special: Mapping[str, str], tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end an answer: those of the generation settings, else the tokenizer's."""
    genai = _json_object(folder / "genai_config.json").get("model")
    stop = {
        *_ids(_json_object(folder / "generation_config.json").get("eos_token_id")),
        *_ids(genai.get("eos_token_id") if isinstance(genai, dict) else None),
    }
    if not stop and "eos_token" in special:
        stop.update(_ids(tokenizer.token_to_id(special["eos_token"])))
    return frozenset(stop)


def _ids(value: object) -> Iterable[int]:
    values = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, int)]


def _token_text(value: object) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _json_object(path: Path) -> Mapping[str, object]:
    """A settings file that may be absent: {} then."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path}: expected JSON: {error}. Compile the model again.") from error
    if not isinstance(document, dict):
        raise OutputError(f"{path}: expected a JSON object. Compile the model again.")
    return document


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
