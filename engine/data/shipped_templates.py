"""Chat templates by name: shipped ones, adapted to a tokenizer, and those of catalog models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.data.chat_template import ERRORS, has_template

FOLDER = Path(__file__).parent.parent / "assets" / "templates"
NEEDED = {"tools-chatml": "<|im_start|>", "tools-plain": ""}
"""Shipped template -> token that the tokenizer must have; '' for none."""
SHIPPED = tuple(NEEDED)
_ASKED = [
    {"role": "user", "content": "Which city is meant?"},
    {"role": "assistant", "content": "The capital of Norway."},
]


def template_text(name: str, tokenizer: Any) -> tuple[str, str]:
    """(text, name in errors) of a shipped template, a catalog model's template or a Jinja file.

    Raises UserError: model.unknown_template, model.template_unreadable, model.template_tokens.
    """
    if name in SHIPPED:
        missing = _missing_token(name, tokenizer)
        if missing:
            what = f"the chat template {name!r} needs the token {missing}, which the tokenizer does not have"
            do = 'set model.chat_template = "tools-plain", which works with every tokenizer'
            raise UserError(what, str(tokenizer.name_or_path), do, code="model.template_tokens")
        return shipped(name, tokenizer), name
    if name in CATALOG:
        text = _catalogued(name)
        if text is None:
            what = f"the chat template of {name!r} is not on this machine"
            raise UserError(what, do=f"run `ftbench pull {name}`", code="model.unknown_template")
        return text, f"chat template of {name}"
    return _read(Path(name)), name


def shipped(name: str, tokenizer: Any) -> str:
    """A shipped template with the tokenizer's end-of-turn token and, if it starts texts with one, its
    beginning-of-sequence token."""
    text = (FOLDER / f"{name}.jinja").read_text("utf-8")
    for variable, token in (("turn_end", end_of_turn(tokenizer)), ("text_start", _start_of_text(tokenizer))):
        line = next(line for line in text.splitlines() if line.startswith(f"{{%- set {variable} = "))
        text = text.replace(line, f"{{%- set {variable} = {_quoted(token)} %}}")
    return text


def candidates(tokenizer: Any) -> Iterator[tuple[str, str]]:
    """(name, text) of every named template that this tokenizer can use, other than its own."""
    own = tokenizer.chat_template
    for name in SHIPPED:
        if not _missing_token(name, tokenizer):
            yield name, shipped(name, tokenizer)
    for name in CATALOG:
        text = _catalogued(name)
        if text is not None and text != own:
            yield name, text


def end_of_turn(tokenizer: Any) -> str:
    """The token after answers in the tokenizer's chat template, else its end-of-sequence token."""
    eos = str(tokenizer.eos_token)
    if not has_template(tokenizer):
        return eos
    try:
        text = str(tokenizer.apply_chat_template(_ASKED, tokenize=False))
    except ERRORS:  # another template will be used
        return eos
    behind = text.rpartition(_ASKED[1]["content"])[2].strip()
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in special if behind.startswith(token)), key=len, default=eos)


def _start_of_text(tokenizer: Any) -> str:
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return str(tokenizer.bos_token) if tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id else ""


def _missing_token(name: str, tokenizer: Any) -> str:
    needed = NEEDED[name]
    return needed if needed and len(tokenizer.encode(needed, add_special_tokens=False)) != 1 else ""


def _catalogued(name: str) -> str | None:
    """The chat template of a catalog model, if it is pulled."""
    folder = pulled_folder(name)
    try:
        if (folder / "chat_template.jinja").is_file():
            return (folder / "chat_template.jinja").read_text("utf-8")
        text = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
    except (OSError, ValueError):
        return None
    return text if isinstance(text, str) else None


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError as error:
        names = ", ".join((*SHIPPED, *CATALOG))
        what = "unknown chat template"
        raise UserError(
            what, str(path), f"use a Jinja file or one of {names}", code="model.unknown_template"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot read the chat template ({error})"
        raise UserError(what, str(path), "check model.chat_template", code="model.template_unreadable") from error
    if not text.strip():
        raise UserError("the chat template is empty", str(path), "use another file", code="model.template_unreadable")
    return text


def _quoted(token: str) -> str:
    """A Jinja string literal."""
    return "'" + token.replace("\\", "\\\\").replace("'", "\\'") + "'"
