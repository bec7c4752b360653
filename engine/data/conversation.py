"""From a row to a conversation, or to plain text, by the format that was found."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from engine.contract.errors import UserError
from engine.data.messages import Unusable, message, text_of, tools_of, turns_of
from engine.data.raw import Raw

if TYPE_CHECKING:
    from engine.data.formats import Format


@dataclass(frozen=True)
class Example:
    """A conversation whose assistant turns are learnt, or a prompt and its completion as plain text."""

    messages: list[dict[str, Any]] | None
    prompt: str | None
    completion: str | None
    """Strings for prompt-completion and text: what plain text is made of where there is no chat template."""
    where: str
    tools: list[Any] | None = None
    weights: dict[int, float] = field(default_factory=dict)
    """Loss weight of assistant messages by index; a message that is absent has weight 1, one of weight 0 is not in the
    loss (the turns of a prompt, and messages whose row says so). Without messages, index 0 is the completion."""
    references: tuple[str, ...] = ()
    """Other accepted answers beyond the completion or the last message; a test row is scored against all of them."""

    def weight(self, number: int) -> float:
        """Loss weight of the tokens of message `number`."""
        return self.weights.get(number, 1.0)

    @cached_property
    def key(self) -> str:
        """sha256 over the content, blind to white space at the ends and to how characters are composed."""
        said: Any = [(self.prompt or "").strip(), (self.completion or "").strip()]
        if self.messages is not None:
            said = [[turn["role"], turn["content"].strip(), turn.get("tool_calls")] for turn in self.messages]
        text = json.dumps([said, self.tools], ensure_ascii=False, sort_keys=True, default=str)
        return hashlib.sha256(" ".join(unicodedata.normalize("NFC", text).split()).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be learnt from: of what kind, in words, and where."""

    kind: str
    what: str
    where: str
    length: int = 0
    """Tokens it would have had; 0 where it never came to tokens."""


def converse(raw: Raw, found: Format) -> Example | Problem:
    """The row as an Example, or why it has nothing to learn. UserError when it is not what its format says."""
    readers = {"text": _from_text, "prompt-completion": _from_pair, "alpaca": _from_alpaca}
    try:
        return readers.get(found.name, _from_chat)(raw, found)
    except Unusable as problem:
        return Problem(problem.kind, problem.what, raw.where)


def _from_text(raw: Raw, found: Format) -> Example:
    text = text_of(found.parts["text"].fill(raw.values), raw, "text")
    if not text.strip():
        raise Unusable("empty", "no text")
    if found.separator is None:
        return Example(None, "", text, raw.where)
    at = text.rfind(found.separator)
    if at < 0:
        raise Unusable("no answer", f"the separator {found.separator!r} is not in the text")
    cut = at + len(found.separator)
    if not text[cut:].strip():
        raise Unusable("empty", "nothing follows the separator")
    return Example(None, text[:cut], text[cut:], raw.where)


def _from_pair(raw: Raw, found: Format) -> Example:
    prompt, completion = (found.parts[role].fill(raw.values) for role in ("prompt", "completion"))
    if _is_turns(prompt) or _is_turns(completion):
        return _from_turn_pair(prompt, completion, raw, found)
    return _question(text_of(prompt, raw, "prompt"), text_of(completion, raw, "completion"), raw, found)


def _from_turn_pair(prompt: Any, completion: Any, raw: Raw, found: Format) -> Example:
    """Prompt and completion as lists of messages: only the completion's turns are learnt."""
    asked = turns_of(prompt, raw.where, "prompt") if _is_turns(prompt) else [{"role": "user", "content": prompt}]
    said = turns_of(completion, raw.where, "completion") if _is_turns(completion) else None
    said = said if said is not None else [{"role": "assistant", "content": completion}]
    return _conversation(asked + said, raw, found, learnt_from=len(asked))


def _from_alpaca(raw: Raw, found: Format) -> Example:
    values = {role: part.fill(raw.values) for role, part in found.parts.items()}
    task, more = text_of(values["instruction"], raw, "instruction"), text_of(values.get("input"), raw, "input")
    prompt = f"{task}\n\n{more}" if more.strip() else task
    earlier: list[dict[str, Any]] = []
    for pair in values.get("history") or []:
        if not isinstance(pair, list) or len(pair) != 2:
            raise UserError("history is not a list of [question, answer]", raw.where, "mend the row")
        earlier += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return _question(prompt, text_of(values["completion"], raw, "output"), raw, found, earlier)


def _question(
    prompt: str, completion: str, raw: Raw, found: Format, earlier: list[dict[str, Any]] | None = None
) -> Example:
    if not prompt.strip():
        raise Unusable("empty", "no prompt")
    if not completion.strip():
        raise Unusable("empty", "no completion")
    turns = [*(earlier or []), {"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    chat = _conversation(turns, raw, found)
    assert chat.messages is not None
    system = f"{chat.messages[0]['content']}\n\n" if chat.messages[0]["role"] == "system" else ""
    return Example(chat.messages, system + prompt, completion, raw.where, chat.tools, chat.weights)


def _from_chat(raw: Raw, found: Format) -> Example:
    turns = turns_of(found.parts["messages"].fill(raw.values), raw.where, found.parts["messages"].source)
    if not turns:
        raise Unusable("empty", "no messages")
    return _conversation(turns, raw, found)


def _conversation(turns: list[dict[str, Any]], raw: Raw, found: Format, learnt_from: int = 0) -> Example:
    messages = [message(turn, number, raw) for number, turn in enumerate(turns, 1)]
    answers = [number for number, turn in enumerate(messages) if turn["role"] == "assistant"]
    weights = {number: _weight(turns[number], number + 1, raw) for number in answers if number >= learnt_from}
    learnt = [number for number, weight in weights.items() if weight > 0]
    if not learnt:
        raise Unusable("no answer", "no assistant message to learn")
    messages = messages[: learnt[-1] + 1]  # nothing is learnt from what follows the last answer
    weights = {number: weights.get(number, 0.0) for number in answers if number <= learnt[-1]}
    if not messages[-1]["content"].strip() and not messages[-1].get("tool_calls"):
        raise Unusable("empty", "the last answer is empty")
    if "system" in found.parts and messages[0]["role"] != "system":
        system = text_of(found.parts["system"].fill(raw.values), raw, "system")
        if system.strip():
            messages.insert(0, {"role": "system", "content": system})
            weights = {number + 1: weight for number, weight in weights.items()}
    tools = found.parts["tools"].fill(raw.values) if "tools" in found.parts else None
    return Example(messages, None, None, raw.where, tools_of(tools, raw), _other_than_one(weights))


def _weight(turn: dict[str, Any], number: int, raw: Raw) -> float:
    """A message's `weight` as OpenAI writes it. UserError unless it is a finite number of at least 0."""
    weight = turn.get("weight")
    if weight is None:
        return 1.0
    if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        what = f"invalid loss weight {weight!r} in message {number}"
        raise UserError(what, raw.where, "use a number of at least 0", code="data.invalid_weight")
    return float(weight)


def _other_than_one(weights: dict[int, float]) -> dict[int, float]:
    return {number: weight for number, weight in weights.items() if weight != 1.0}


def _is_turns(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in value)
    )
