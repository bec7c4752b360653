"""Chat templates: special tokens, rendering and what it drops, templates by name (shipped, or of a catalog model).

A template that fails on every conversation is broken; one that fails on some rejects them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jinja2

from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError, reason_of
from engine.config.files import read_small
from engine.config.model_files import MAX_CONFIG_BYTES
from engine.config.reasoning import REASONING_KEYS
from engine.data import problems
from engine.data.parallel import in_child, run_template, template_memory
from engine.data.rows import MAX_ROW_BYTES, Example

Messages = list[dict[str, Any]]
SET_TEMPLATE = "--set model.chat_template=tools-chatml, tools-plain or a Jinja file"
"""What to do where the model's template cannot be used."""


def has_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def template_name(tokenizer: Any) -> str:
    """The name of a tokenizer's template in errors: its file, if there is one."""
    name = getattr(tokenizer, "chat_template_name", None)
    if name:
        return str(name)
    folder = str(getattr(tokenizer, "name_or_path", "") or "")
    if folder and (Path(folder) / "chat_template.jinja").is_file():
        return str(Path(folder) / "chat_template.jinja")
    return f"chat template of {folder}" if folder else "chat template"


def no_template(rows: str, where: str) -> UserError:
    """The error for rows that need a chat template, and a tokenizer without one."""
    problem = f"{rows} need a chat template, and this model has none"
    return UserError(problem, where, SET_TEMPLATE, code="data.no_template")


def special_tokens(tokenizer: Any) -> tuple[frozenset[int], list[str]]:
    """Ids and texts of special tokens, without the unknown token, which represents ordinary text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {number for number, token in added.items() if token.special} | set(tokenizer.all_special_ids)
    ids -= {tokenizer.unk_token_id} - {tokenizer.eos_token_id}
    texts = [str(added[number]) if number in added else str(tokenizer.convert_ids_to_tokens(number)) for number in ids]
    return frozenset(ids), [text for text in texts if text]


_MAX_FIRSTS = 4
"""If the special tokens begin with at most this many distinct characters, a text is searched for these characters
first: this takes less time than a search with the pattern.
"""


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of special tokens and a pattern of their texts."""

    ids: frozenset[int]
    pattern: re.Pattern[str]
    firsts: str
    """The first characters of their texts."""
    separate: bool
    """Whether none of them absorbs white space or neighboring text: text on both sides is tokenized separately."""

    @classmethod
    def of(cls, tokenizer: Any) -> SpecialTokens:
        ids, texts = special_tokens(tokenizer)
        ordered = sorted(map(re.escape, texts), key=len, reverse=True)
        added = [token for token in getattr(tokenizer, "added_tokens_decoder", {}).values() if token.special]
        separate = not any(token.lstrip or token.rstrip or token.single_word or token.normalized for token in added)
        firsts = "".join(sorted({text[0] for text in texts}))
        return cls(ids, re.compile("|".join(ordered) if ordered else r"(?!)"), firsts, separate)

    def within(self, text: str) -> bool:
        """Whether the text contains a special token."""
        if len(self.firsts) <= _MAX_FIRSTS and not any(first in text for first in self.firsts):
            return False
        return self.pattern.search(text) is not None

    def count(self, text: str) -> int:
        return sum(1 for _ in self.pattern.finditer(text))

    def text(self, text: str) -> str:
        """The text without special tokens."""
        return self.pattern.sub("", text)

    def anchor(self, text: str, place: int) -> tuple[int, str]:
        """(number of special tokens before `place`, text from the last of them to `place`)."""
        marks = list(self.pattern.finditer(text, 0, place))
        return len(marks), text[marks[-1].start() : place] if marks else ""


ERRORS = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Exceptions of rendering a conversation that the template was not written for."""
_CORRECT_TEMPLATE = f"correct the template, or {SET_TEMPLATE}"
_MAX_CHARACTERS = 4 * MAX_ROW_BYTES
"""Maximum length of a rendered conversation, whose texts have at most MAX_ROW_BYTES in total."""
_QUESTION, _ANSWER = "Which city is meant?", "The capital of Norway."
_PROBE = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]


class ChatTemplate:
    """The chat template of a tokenizer, or another one (`source`) instead of it. Made and used in child processes.

    Raises UserError (code data.template_broken) if it is not valid Jinja.
    """

    def __init__(self, tokenizer: Any, source: str | None = None, name: str | None = None) -> None:
        self.tokenizer, self.source = tokenizer, source
        self.name = name or template_name(tokenizer)
        self._variables = dict(tokenizer.special_tokens_map)
        self._probed = False
        self._compiled: Any | None = None
        try:
            # Imported here because transformers is slow to import.
            from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template
        except ImportError:  # private function: without it every row is rendered by apply_chat_template
            return
        template = tokenizer.get_chat_template(source)
        try:
            # Jinja evaluates constant expressions while it compiles, `{{ 9 ** 9 ** 9 }}` for example.
            self._compiled = run_template(lambda: compile_template(template), self.name)
        except jinja2.TemplateSyntaxError as error:
            problem = f"broken chat template ({error.message})"
            where = f"{self.name} line {error.lineno}"
            raise UserError(problem, where, _CORRECT_TEMPLATE, code="data.template_broken") from error

    def text(self, messages: Messages, tools: list[Any] | None, ask: bool = False) -> str:
        """Render a conversation; `ask` appends the generation prompt. Raises any of ERRORS."""

        def render() -> Any:
            return self.tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self.source, tokenize=False, add_generation_prompt=ask
            )

        return self._limited(render)

    def try_text(self, messages: Messages, tools: list[Any] | None) -> str | None:
        """`text`; None if the template fails."""
        try:
            return self.text(messages, tools)
        except ERRORS:
            return None

    def quick_text(self, messages: Messages) -> str:
        """`text` for messages with only role and content and without tools; takes half the time."""
        template = self._compiled
        if template is None:
            return self.text(messages, None)
        values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
        return self._limited(lambda: template.render(values | self._variables))

    def _limited(self, render: Callable[[], Any]) -> str:
        def bounded() -> str:
            text = str(render())
            if len(text) > _MAX_CHARACTERS:
                raise OverflowError(f"a row of {len(text):,} characters")
            return text

        return run_template(bounded, self.name)

    def problem(self, error: Exception) -> tuple[str, str]:
        """(kind, description) of the problem of a row on which rendering raised `error`.

        Raises UserError (code data.template_broken) if a minimal conversation fails as well.
        """
        message = _reason(error).replace("; ", ", ")
        if type(error) is jinja2.TemplateError:  # raise_exception in a template
            return problems.TEMPLATE_REFUSED, message
        self.probe()
        return problems.TEMPLATE_FAILED, f"{message} (line {line_of(error)} of the chat template)"

    def probe(self) -> None:
        """Render one question and one answer. Raises UserError if that fails or the answer is missing."""
        if self._probed:
            return
        try:
            self.text(_PROBE[:1], None, ask=True)
            if _ANSWER not in self.text(_PROBE, None):
                raise self._broken("it does not render the content of assistant messages", self.name)
        except ERRORS as error:
            if type(error) is not jinja2.TemplateError:
                what = f"it fails on one question and one answer ({_reason(error)})"
                line = line_of(error)
                raise self._broken(what, f"{self.name} line {line}" if line else self.name) from error
        self._probed = True

    def _broken(self, problem: str, where: str) -> UserError:
        """The error for a template that cannot render text answers: it is broken, or needs lists of content parts."""
        parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in _PROBE]
        if _ANSWER in (self.try_text(parts, None) or ""):
            problem = "the chat template requires lists of content parts, as in vision models, and ftbench renders text"
            return UserError(problem, self.name, SET_TEMPLATE, code="data.template_takes_parts")
        return UserError(f"broken chat template: {problem}", where, _CORRECT_TEMPLATE, code="data.template_broken")


def _reason(error: Exception) -> str:
    """Why rendering failed, in one line."""
    if "no loader" in str(error):
        return "include, import and extends cannot be used in chat templates"
    return reason_of(error)


def line_of(error: Exception) -> int:
    """Line of the template at which rendering raised the error; 0 if unknown."""
    line, at = 0, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = at.tb_lineno
        at = at.tb_next
    return line


Done = TypeVar("Done")


def render_in_child(tokenizer: Any, work: Callable[[ChatTemplate], Done]) -> Done:
    """The result of `work` with the tokenizer's chat template. Raises UserError if the template exceeds a limit."""

    def limited() -> Done:
        with template_memory(template_name(tokenizer)):
            return work(ChatTemplate(tokenizer))

    return in_child(limited)


@dataclass(frozen=True, slots=True)
class MessagePart:
    """A part of a conversation that a template may drop."""

    kind: str
    """One of the codes of `engine.data.problems` for what templates drop: TOOLS, CALLS, REASONING, …"""
    message: int = -1
    """Index of the message; -1 for the tools of the row."""
    key: str = ""
    call: int = -1
    """Index of the tool call, for `name` and `arguments`."""


def find_dropped(example: Example, template: ChatTemplate, whole: str) -> list[MessagePart]:
    """The parts of a conversation on which its text `whole` does not depend.

    The conversation is rendered once with a marker in place of every part. A part whose marker is missing is removed
    from the conversation itself, or its text is changed: if the rendered text is the same, the part is dropped.
    """
    parts = list(_parts(example))
    marked = [dict(turn) for turn in example.conversation]
    for number, part in enumerate(parts):
        if part.call >= 0:
            value: Any = {_mark(number): _mark(number)} if part.key == "arguments" else _mark(number)
            marked[part.message]["tool_calls"] = _with_call(marked[part.message]["tool_calls"], part, value)
        elif part.message >= 0:
            marked[part.message][part.key] = _mark(number)
    text = template.try_text(marked, example.tools)

    dropped = []
    for number, part in enumerate(parts):
        if text is not None and part.message >= 0 and _mark(number) in text:
            continue
        messages = [dict(turn) for turn in example.conversation]
        if part.call >= 0:
            calls = messages[part.message]["tool_calls"]
            name = calls[part.call]["function"]["name"]
            other: Any = {} if part.key == "arguments" else f"{name}_other"
            messages[part.message]["tool_calls"] = _with_call(calls, part, other)
        elif part.key == "content":
            messages[part.message]["content"] += " And more."
        elif part.message >= 0:
            del messages[part.message][part.key]
        if template.try_text(messages, example.tools if part.message >= 0 else None) == whole:
            dropped.append(part)
    return dropped


_CONTENT = {"system": problems.SYSTEM, "user": problems.USER, "tool": problems.RESULTS, "assistant": problems.HISTORY}
_NOT_TEXT = frozenset(("role", "content", "tool_calls", "tool_call_id", "id", "type"))
"""Message keys that are handled separately, or only link a message to a tool call."""


def _parts(example: Example) -> Iterator[MessagePart]:
    """The parts that a template has to render: tools, tool calls, the reasoning of answers in the loss, the content of
    all other messages, and further keys. `Renderer` checks the content of answers in the loss.
    """
    trained = set(example.trained)
    if example.tools:
        yield MessagePart(problems.TOOLS)
    for number, turn in enumerate(example.conversation):
        if number not in trained and turn["content"].strip():
            yield MessagePart(_CONTENT[turn["role"]], number, "content")
        for place, call in enumerate(turn.get("tool_calls") or []):
            yield MessagePart(problems.CALLS, number, "name", place)
            if call["function"]["arguments"]:
                yield MessagePart(problems.CALLS, number, "arguments", place)
        reasoning = next((key for key in REASONING_KEYS if turn.get(key)), None)
        if reasoning and number in trained:
            yield MessagePart(problems.REASONING, number, reasoning)
        for key, value in turn.items():
            if key not in _NOT_TEXT and key not in REASONING_KEYS and value not in (None, "", [], {}):
                yield MessagePart(problems.NAMES if key == "name" else problems.KEYS, number, key)


def _mark(number: int) -> str:
    """The marker in place of the part with this number."""
    return f"Mark{number}part"


def _with_call(calls: list[dict[str, Any]], part: MessagePart, value: Any) -> list[dict[str, Any]]:
    """The tool calls of a message, with another name or other arguments in one of them."""
    changed = list(calls)
    changed[part.call] = {**calls[part.call], "function": {**calls[part.call]["function"], part.key: value}}
    return changed


FOLDER = Path(__file__).parent.parent / "assets" / "templates"
_REQUIRED_TOKENS = {"tools-chatml": "<|im_start|>", "tools-plain": ""}
"""Shipped template -> token that the tokenizer must have; '' for none."""
SHIPPED = tuple(_REQUIRED_TOKENS)


def template_text(name: str, tokenizer: Any) -> tuple[str, str]:
    """(text, name in errors) of a shipped template, a catalog model's template or a Jinja file.

    Raises UserError: model.unknown_template, model.template_unreadable, model.template_tokens.
    """
    if name in SHIPPED:
        missing = _missing_token(name, tokenizer)
        if missing:
            problem = f"the chat template {name!r} needs the token {missing}, which the tokenizer does not have"
            hint = "--set model.chat_template=tools-plain, which works with every tokenizer"
            raise UserError(problem, str(tokenizer.name_or_path), hint, code="model.template_tokens")
        return shipped(name, tokenizer), name
    if name in CATALOG:
        text = _catalogued(name)
        if text is None:
            problem = f"the chat template of {name!r} is not on this machine"
            raise UserError(problem, hint=f"run `ftbench pull {name}`", code="model.unknown_template")
        return text, f"chat template of {name}"
    where = str(Path(name))
    try:
        text = read_small(Path(name)).decode()
    except FileNotFoundError as error:
        hint = f"use a Jinja file or one of {', '.join((*SHIPPED, *CATALOG))}"
        raise UserError("unknown chat template", where, hint, code="model.unknown_template") from error
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot read the chat template ({reason_of(error)})"
        raise UserError(problem, where, "check model.chat_template", code="model.template_unreadable") from error
    if not text.strip():
        raise UserError("the chat template is empty", where, "use another file", code="model.template_unreadable")
    return text, name


def shipped(name: str, tokenizer: Any) -> str:
    """A shipped template with the tokenizer's end-of-turn token and, if it starts texts with one, its
    beginning-of-sequence token."""
    text = (FOLDER / f"{name}.jinja").read_text("utf-8")
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    has_start = tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
    start = str(tokenizer.bos_token) if has_start else ""
    for variable, token in (("turn_end", end_of_turn(tokenizer)), ("text_start", start)):
        line = next(line for line in text.splitlines() if line.startswith(f"{{%- set {variable} = "))
        quoted = token.replace("\\", "\\\\").replace("'", "\\'")
        text = text.replace(line, f"{{%- set {variable} = '{quoted}' %}}")
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
        text = render_in_child(tokenizer, lambda template: template.try_text(_PROBE, None) or "")
    except UserError:  # another template will be used
        return eos
    behind = text.rpartition(_ANSWER)[2].strip()
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return max((token for token in special if behind.startswith(token)), key=len, default=eos)


def _missing_token(name: str, tokenizer: Any) -> str:
    """The token that a shipped template needs and the tokenizer does not have; '' for none."""
    token = _REQUIRED_TOKENS[name]
    return token if token and len(tokenizer.encode(token, add_special_tokens=False)) != 1 else ""


def _catalogued(name: str) -> str | None:
    """The chat template of a catalog model, if it is pulled."""
    folder = pulled_folder(name)
    try:
        if (folder / "chat_template.jinja").is_file():
            return read_small(folder / "chat_template.jinja").decode()
        text = json.loads(read_small(folder / "tokenizer_config.json", MAX_CONFIG_BYTES)).get("chat_template")
    except (OSError, ValueError):
        return None
    return text if isinstance(text, str) else None
