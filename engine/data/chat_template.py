"""Render a tokenizer's chat template, and distinguish a broken template from one that rejects a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from engine.config.errors import UserError
from engine.data.template_limit import run_template

REFUSED = "data.template_refused"
FAILED = "data.template_failed"
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
_QUESTION, _ANSWER = "Which city is meant?", "The capital of Norway."
_PROBE = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": _ANSWER}]
_OTHER = 'set model.chat_template to "tools-chatml", "tools-plain" or a Jinja file'
_DO = f"correct the template, or {_OTHER}"

Messages = list[dict[str, Any]]


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


class ChatTemplate:
    """The chat template of a tokenizer, or another one (`source`) instead of it.

    Raises UserError (code data.template_broken) if it is not valid Jinja.
    """

    def __init__(self, tokenizer: Any, source: str | None = None, name: str | None = None) -> None:
        self.tokenizer, self.source = tokenizer, source
        self.name = name or template_name(tokenizer)
        self.variables = dict(tokenizer.special_tokens_map)
        self._compiled: dict[bool, Any] = {}
        self._probed = False
        self.compiled(False)

    def compiled(self, with_tools: bool) -> Any | None:
        """The compiled Jinja template; None if this version of transformers has no function for it."""
        if with_tools not in self._compiled:
            try:
                # Imported here because transformers is slow to import.
                from transformers.utils.chat_template_utils import _compile_jinja_template as compile_template
            except ImportError:  # private function: without it every row is rendered by apply_chat_template
                return None
            text = self.tokenizer.get_chat_template(self.source, [{}] if with_tools else None)
            try:
                # Jinja evaluates constant expressions while it compiles, `{{ 9 ** 9 ** 9 }}` for example.
                self._compiled[with_tools] = run_template(lambda: compile_template(text), self.name)
            except jinja2.TemplateSyntaxError as error:
                what = f"broken chat template ({error.message})"
                raise UserError(what, f"{self.name} line {error.lineno}", _DO, code="data.template_broken") from error
        return self._compiled[with_tools]

    def text(self, messages: Messages, tools: list[Any] | None, ask: bool = False) -> str:
        """Render a conversation; `ask` appends the generation prompt. Raises any of ERRORS."""

        def render() -> Any:
            return self.tokenizer.apply_chat_template(
                messages, tools=tools, chat_template=self.source, tokenize=False, add_generation_prompt=ask
            )

        return str(run_template(render, self.name))

    def quick_text(self, messages: Messages) -> str:
        """`text` for messages with only role and content and without tools; takes half the time."""
        template = self.compiled(False)
        if template is None:
            return self.text(messages, None)
        values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": False}
        return str(run_template(lambda: template.render(values | self.variables), self.name))

    def problem(self, error: Exception) -> tuple[str, str]:
        """(kind, description) of the problem of a row on which rendering raised `error`.

        Raises UserError (code data.template_broken) if a minimal conversation fails as well.
        """
        message = " ".join(str(error).split()).replace("; ", ", ") or type(error).__name__
        if type(error) is jinja2.TemplateError:  # raise_exception in a template
            return REFUSED, message
        self.probe()
        return FAILED, f"{message} (line {line_of(error)} of the chat template)"

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
                message = " ".join(str(error).split()) or type(error).__name__
                what = f"it fails on one question and one answer ({type(error).__name__}: {message})"
                raise self._broken(what, self._line(error)) from error
        self._probed = True

    def _broken(self, what: str, where: str) -> UserError:
        """The error for a template that cannot render text answers: it is broken, or needs lists of content parts."""
        parts = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in _PROBE]
        try:
            takes_parts = _ANSWER in self.text(parts, None)
        except ERRORS:
            takes_parts = False
        if takes_parts:
            what = "the chat template requires lists of content parts, as in vision models, and ftbench renders text"
            return UserError(what, self.name, _OTHER, code="data.template_takes_parts")
        return UserError(f"broken chat template: {what}", where, _DO, code="data.template_broken")

    def _line(self, error: Exception) -> str:
        line = line_of(error)
        return f"{self.name} line {line}" if line else self.name


def line_of(error: Exception) -> int:
    """Line of the template at which rendering raised the error; 0 if unknown."""
    line, at = 0, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = at.tb_lineno
        at = at.tb_next
    return line
