"""Convert a row to an Example: its messages, or a prompt and its answers, with the loss weight of each message.

The row's format (`engine/data/formats`) reads its columns, and calls `conversation` or `prompt_and_answer` with them.
Messages get OpenAI's schema: role, content as text, tool calls as objects.
"""

from __future__ import annotations

import operator
import re
from dataclasses import replace
from typing import Any, NamedTuple

from engine.config.errors import UserError
from engine.data.columns import as_text
from engine.data.formats import DetectedFormat, data_formats
from engine.data.problems import EMPTY_TURN, END_TOKEN_REMOVED, MISREAD_TEXT, TURNS_DROPPED, TWO_ANSWERS
from engine.data.readers.encodings import is_misread
from engine.data.rows import Example, Problem, RawRow, UnusableRow, described, from_json, parsed


def to_example(raw: RawRow, detected: DetectedFormat) -> Example | Problem:
    """Convert a row to an Example, or a Problem if it is unusable. Raises UserError if it contradicts its format."""
    try:
        example = _without_end_tokens(data_formats()[detected.name].convert(raw, detected))
        texts = [turn["content"] for turn in example.conversation] or [example.prompt or "", example.completion or ""]
        if any(not text.isascii() and is_misread(text) for text in texts):
            example = replace(example, notes=(*example.notes, MISREAD_TEXT))
        value = raw.values.get(detected.group) if detected.group else None
        return example if value in (None, "") else replace(example, group=as_text(value))
    except UnusableRow as problem:
        return Problem(problem.kind, problem.what, raw.where)


_END_TOKENS = (
    *("<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|return|>"),
    *("</s>", "<eos>", "<end_of_turn>", "<｜end▁of▁sentence｜>"),
)
"""End tokens of common tokenizers."""


def _without_end_tokens(example: Example) -> Example:
    """The example without literal end tokens at the end of its answers: the template writes the model's own.

    Raises UnusableRow if nothing of the last answer is left.
    """
    messages = [
        {**turn, "content": stripped}
        if turn["role"] == "assistant" and (stripped := _stripped(turn["content"])) != turn["content"]
        else turn
        for turn in example.conversation
    ]
    completion = None if example.completion is None else _stripped(example.completion)
    references = tuple(_stripped(text) for text in example.references)
    if (messages, completion, references) == (example.conversation, example.completion, example.references):
        return example
    if (messages and _is_empty(messages[-1])) or (completion is not None and not completion.strip()):
        raise UnusableRow("data.empty", "the answer is an end token only")
    notes = (*example.notes, END_TOKEN_REMOVED)
    changed = messages if example.messages is not None else None
    return replace(example, messages=changed, completion=completion, references=references, notes=notes)


def _stripped(text: str) -> str:
    """The text without end tokens at its end, and without the white space around them."""
    kept = text.rstrip()
    if not kept.endswith(_END_TOKENS):
        return text
    while found := next((token for token in _END_TOKENS if kept.endswith(token)), ""):
        kept = kept.removesuffix(found).rstrip()
    return kept


def _is_empty(turn: dict[str, Any]) -> bool:
    """Whether a message has no text, tool call or reasoning."""
    return not (turn["content"].strip() or turn.get("tool_calls") or turn.get("reasoning_content"))


def conversation(turns: list[dict[str, Any]], raw: RawRow, detected: DetectedFormat, trained_from: int = 0) -> Example:
    """A conversation whose assistant messages from `trained_from` on are in the loss, with their weights.

    Messages after the last trained answer are dropped. Empty answers before it get weight 0.
    """
    messages = [_message(turn, number, raw) for number, turn in enumerate(turns, 1)]
    weights = {}
    for number, (turn, message) in enumerate(zip(turns, messages, strict=True)):
        weight = _weight(turn, message["role"], number + 1, raw)
        if message["role"] == "assistant":
            weights[number] = weight if number >= trained_from else 0.0
    trained = [number for number, weight in weights.items() if weight > 0]
    if not trained:
        raise UnusableRow("data.no_answer", "no assistant message to train on")
    last = trained[-1]
    if _is_empty(messages[last]):
        raise UnusableRow("data.empty", "the last answer is empty")
    notes = [TURNS_DROPPED] if len(messages) > last + 1 else []
    del messages[last + 1 :]
    weights = {number: weight for number, weight in weights.items() if number <= last}
    skipped = [number for number in trained if number < last and _is_empty(messages[number])]
    weights |= dict.fromkeys(skipped, 0.0)
    refuse_placeholder(messages)
    answers = [message["role"] == "assistant" for message in messages]
    notes += [TWO_ANSWERS] if any(map(operator.and_, answers, answers[1:])) else []
    notes += [EMPTY_TURN] if skipped else []

    # The row's system message comes first, unless the conversation starts with one.
    if "system" in detected.parts and messages[0]["role"] != "system":
        system = text_of(detected.parts["system"].fill(raw.values), raw, "system")
        if system.strip():
            messages.insert(0, {"role": "system", "content": system})
            weights = {number + 1: weight for number, weight in weights.items()}

    tools = detected.parts["tools"].fill(raw.values) if "tools" in detected.parts else None
    if tools:
        tools = from_json(tools, f"{raw.where} (tools)")  # JSON text in CSV files
        if tools is not None and not isinstance(tools, list):
            problem = f"tools is {described(tools)}, not a list"
            raise UserError(problem, raw.where, "write a list of tool schemas", code="data.invalid_tools")
        text_of(tools, raw, "tools")
    return Example(
        messages,
        None,
        None,
        raw.where,
        tools or None,
        {number: weight for number, weight in weights.items() if weight != 1.0},
        notes=tuple(notes),
    )


WEIGHTS = ("weight", "loss_weight", "loss_scale", "train", "training", "trainable", "loss")
"""Keys with a number ≥ 0 or a boolean: OpenAI, LLaMA-Factory v1, ms-swift, axolotl."""
MASKED = ("masked",)
"""Keys where true excludes the message from the loss: torchtune."""
MAX_WEIGHT = 1_000_000
"""Larger numbers overflow in the loss."""
REFUSED = {
    "mask": "use weight instead (0 excludes a message from the loss): tools disagree on the meaning of this key",
    "loss_mask": "use weight instead (0 excludes a message from the loss): tools disagree on the meaning of this key",
    "train_detail": "use weight for the complete message: weights of single characters are not supported",
    "training_detail": "use weight for the complete message: weights of single characters are not supported",
}
FLAGS = frozenset((*WEIGHTS, *MASKED, *REFUSED))
_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "ipython": "tool",
}  # fmt: skip
_CALLS = ("function_call", "tool_call")
"""ShareGPT roles of messages whose text is a tool call."""
_READ = frozenset(("role", "from", "value", "content", "tool_calls", "function_call")) | FLAGS
"""Keys that become role, content, tool calls and weight; other keys are passed to the chat template."""


def _message(turn: dict[str, Any], number: int, raw: RawRow) -> dict[str, Any]:
    """Convert one message to OpenAI's schema. Unknown keys are kept for the chat template."""
    said = turn.get("role", turn.get("from"))
    if not isinstance(said, str):
        hint = "add role (or from): user, assistant, system or tool"
        raise UserError(f"message {number} has no role", raw.where, hint, code="data.message_without_role")
    role = _ROLES.get(said) or role_of(turn)
    if role is None:
        raise UnusableRow("data.unknown_role", f"message {number} has the role {said!r}")

    # A role and a text, as in most messages.
    content = turn["content"] if "content" in turn else turn.get("value")
    if type(content) is str and len(turn) == 2 and said not in _CALLS:
        return {"role": role, "content": content if content.isascii() else text_of(content, raw, f"message {number}")}

    # Content and tool calls, wherever the message has them.
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else None)
    if "content" not in turn and "value" not in turn and not calls:
        hint = "add content (or value)"
        raise UserError(f"message {number} has no content", raw.where, hint, code="data.message_without_content")
    if said.strip().lower() in _CALLS and not calls:
        calls = calls_of(content)
        content = None if calls else content

    converted: dict[str, Any] = {"role": role}
    if isinstance(content, list):
        content, more = _parts(content, number, raw)
        calls = calls or more.pop("tool_calls", None)
        converted |= more
    if isinstance(content, dict):
        problem = f"the content of message {number} is an object"
        raise UserError(problem, raw.where, "write the content as text", code="data.invalid_content")
    converted["content"] = text_of(content, raw, f"message {number}")
    converted |= {key: value for key, value in turn.items() if key not in _READ and value is not None}

    if calls:
        if isinstance(calls, str):  # JSON text in CSV files
            calls = parsed(calls, f"{raw.where} (tool calls of message {number})")
        if not isinstance(calls, list):
            problem = f"the tool calls of message {number} are {described(calls)}, not a list"
            raise UserError(problem, raw.where, "write a list of tool calls", code="data.invalid_tool_call")
        text_of(calls, raw, f"the tool calls of message {number}")
        converted["tool_calls"] = [_call(call, number, raw) for call in calls]
    return converted


def role_of(turn: dict[str, Any]) -> str | None:
    """The role as system, user, assistant or tool; None for other roles."""
    role = turn.get("role", turn.get("from"))
    return (_ROLES.get(role) or _ROLES.get(role.strip().lower())) if isinstance(role, str) else None


_MEDIA_PARTS = ("image", "audio", "video", "file", "document")


def _parts(parts: list[Any], number: int, raw: RawRow) -> tuple[str, dict[str, Any]]:
    """Split a list of content parts into the text, and reasoning and tool calls by message key.

    The text of a part is under `text` (OpenAI) or `value` (LLaMA-Factory v1). Raises UnusableRow for images, audio,
    video and files.
    """
    texts: list[str] = []
    reasoning: list[str] = []
    calls: list[Any] = []
    for part in parts:
        kind, value = described(part), part  # "text" for a string
        if isinstance(part, dict):
            kind, value = part.get("type", "text"), part.get("text", part.get("value"))
        if kind in ("text", "input_text", "output_text"):
            texts.append(as_text(value))
        elif kind in ("reasoning", "thinking"):
            reasoning.append(as_text(part.get("thinking", value)))
        elif kind in ("tool_call", "function_call") and (content_calls := calls_of(value)):
            calls += content_calls
        elif any(word in str(kind) for word in _MEDIA_PARTS):  # image_url, input_audio, …
            raise UnusableRow("data.media", f"message {number} contains {kind}, and ftbench trains on text only")
        else:
            problem = f"unsupported content part {kind!r} in message {number}"
            raise UserError(problem, raw.where, "write text parts, or drop the row", code="data.content_part")
    more: dict[str, Any] = {"reasoning_content": text_of("".join(reasoning), raw, "reasoning")} if reasoning else {}
    if calls:
        more["tool_calls"] = calls
    return "".join(texts), more


def calls_of(content: Any) -> list[Any] | None:
    """Tool calls from a JSON object with name and arguments, or a list of these (ShareGPT); None for other text."""
    try:
        value = parsed(content, "") if isinstance(content, str) else content
    except UserError:
        return None
    calls = value if isinstance(value, list) else [value]
    return calls if calls and all(isinstance(call, dict) and "name" in call for call in calls) else None


def _call(call: Any, number: int, raw: RawRow) -> dict[str, Any]:
    """A tool call with its arguments as an object, as chat templates expect; OpenAI's API has them as JSON text."""
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        problem = f"a tool call of message {number} has no name"
        raise UserError(problem, raw.where, "add function.name and arguments", code="data.invalid_tool_call")
    arguments = from_json(function.get("arguments"), f"{raw.where}, arguments in message {number}")
    identifier = {"id": call["id"]} if call.get("id") else {}
    return {**identifier, "type": "function", "function": {"name": function["name"], "arguments": arguments or {}}}


def _weight(turn: dict[str, Any], role: str, number: int, raw: RawRow) -> float:
    """The product of a message's weights; 1 without any.

    Raises UserError for invalid or unsupported keys, and for a weight > 0 on a message that is not an answer.
    """
    if len(turn) <= 2 or FLAGS.isdisjoint(turn):
        return 1.0
    weight = 1.0
    for key in FLAGS.intersection(turn):
        value = turn[key]
        if value is None or value == []:
            continue
        if key in REFUSED:
            problem = f"unsupported key {key!r} in message {number}"
            raise UserError(problem, raw.where, REFUSED[key], code="data.loss_flag")
        if not (isinstance(value, int | float) and 0 <= value <= MAX_WEIGHT):
            problem = f"invalid {key} {value!r} in message {number}"
            hint = f"use a number from 0 to {MAX_WEIGHT:,}, or true or false"
            raise UserError(problem, raw.where, hint, code="data.invalid_weight")
        weight *= float(not value) if key in MASKED else float(value)
        if role != "assistant" and key in WEIGHTS and value > 0:
            problem = f"message {number} ({role}) has {key} = {value}, but only assistant messages can be in the loss"
            hint = f"set {key} of system, user and tool messages to 0 or remove it"
            raise UserError(problem, raw.where, hint, code="data.loss_flag_on_prompt")
    return weight


_PLACEHOLDER = re.compile(r"<image>|(?m:^[ \t]*<(?:video|audio)>)|(?m:<(?:video|audio)>[ \t]*$)")


def refuse_placeholder(messages: list[dict[str, Any]]) -> None:
    """Raise UnusableRow for a prompt with a placeholder for an image, audio or video."""
    for number, turn in enumerate(messages, 1):
        text = turn["content"]
        if turn["role"] != "assistant" and "<" in text and (placeholder := _PLACEHOLDER.search(text)):
            raise UnusableRow("data.media", f"message {number} contains {placeholder.group().strip()}")


def turns_of(value: Any, where: str, key: str) -> list[dict[str, Any]]:
    """The turns of a conversation, which may be JSON text, as in CSV files. Raises UserError for anything else."""
    place = f"{where} ({key})"
    value = from_json(value, place)
    if value is None:
        return []
    if isinstance(value, dict) and _is_columns(value):
        value = [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]
    if not isinstance(value, list):
        problem = f"expected a list of messages, found {described(value)}"
        raise UserError(problem, place, "write [{role, content}, …]", code="data.invalid_messages")
    for number, turn in enumerate(value, 1):
        if not isinstance(turn, dict):
            problem = f"message {number} is {described(turn)}, not an object"
            raise UserError(problem, place, "write it as {role, content}", code="data.invalid_messages")
    return value


def _is_columns(value: dict[str, Any]) -> bool:
    """Whether messages are columns, as `datasets` stores them: {from: […], value: […]} with lists of equal length."""
    columns = list(value.values())
    named = {"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()
    return named and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns)


class Answer(NamedTuple):
    """The answer to train on, and further accepted answers."""

    text: str
    references: tuple[str, ...] = ()


def prompt_and_answer(prompt: str, answer: Answer, raw: RawRow, detected: DetectedFormat) -> Example:
    """A prompt and its answer, after the row's history: a list of [question, answer] pairs."""
    if not prompt.strip():
        raise UnusableRow("data.empty", "no prompt")
    if not answer.text.strip():
        raise UnusableRow("data.empty", "no answer")
    history = detected.parts["history"].fill(raw.values) if "history" in detected.parts else None
    history = from_json(history, f"{raw.where} (history)")
    turns: list[dict[str, Any]] = []
    for pair in (history or []) if isinstance(history, list | None) else [history]:
        if not isinstance(pair, list) or len(pair) != 2:
            problem = "history is not a list of [question, answer]"
            raise UserError(problem, raw.where, "correct the row", code="data.invalid_history")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer.text}]
    chat = conversation(turns, raw, detected)
    first = chat.conversation[0]
    system = f"{first['content']}\n\n" if first["role"] == "system" else ""
    return replace(chat, prompt=system + prompt, completion=answer.text, references=answer.references)


ANSWER_LISTS = ("answers", "references", "targets", "accepted_answers", "gold_answers", "aliases", "labels")
"""Columns in which a list contains alternative answers."""
_NESTED = ({"text", "answer_start"}, {"value", "aliases"})


def answer_of(value: Any, name: str | None, raw: RawRow, others: Any = None) -> Answer:
    """Read a column's value as an answer. `name`: the column, if it is a single one. `others`: further alternatives.

    Raises UnusableRow for an empty list of answers: the question has no answer.
    """
    is_list = name is not None and name.lower() in ANSWER_LISTS
    if type(value) is str and others is None and not is_list:
        return Answer(text_of(value, raw, "the answer"))
    if is_list or is_nested(value):
        texts = alternatives(value, raw)
        if not texts:
            raise UnusableRow("data.unanswerable", "the list of answers is empty")
    else:
        texts = [text_of(value, raw, "the answer")]
    texts += alternatives(others, raw)
    return Answer(texts[0], tuple(dict.fromkeys(text for text in texts[1:] if text != texts[0])))


def is_nested(value: Any) -> bool:
    """Whether a value is SQuAD's {text, answer_start}, TriviaQA's {value, aliases}, or a list of these."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) and is_nested(item) for item in value)
    return isinstance(value, dict) and any(keys <= value.keys() for keys in _NESTED)


def alternatives(value: Any, raw: RawRow) -> list[str]:
    """Every text in a list of answers, in order. The list may be JSON text, as in CSV files."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        value = parsed(value, f"{raw.where} (answers)")
    return _texts(value, raw)


def _texts(value: Any, raw: RawRow) -> list[str]:
    """Texts inside a list are not parsed as JSON: an answer may start with a bracket."""
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, raw)]
    if isinstance(value, dict):
        inner = [value[key] for key in ("text", "value", "aliases") if key in value]
        return [text for item in inner for text in _texts(item, raw)]
    text = text_of(value, raw, "an answer")
    return [text] if text.strip() else []


def text_of(value: Any, raw: RawRow, part: str) -> str:
    """A value as text. Raises UserError for text that cannot be encoded as UTF-8."""
    text = as_text(value)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code_point, place = f"\\u{ord(text[error.start]):04x}", f"character {error.start + 1} of {part}"
        problem, hint = f"invalid Unicode surrogate ({code_point}) at {place}", "write both halves of the escape"
        raise UserError(problem, raw.where, hint, code="data.invalid_surrogate") from error
    return text
