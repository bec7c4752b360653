"""Problems of rows that are left out and notes on rows that are trained on, by code: what each means, what to do.

A note is a code, followed by details and, after `; `, by what to do.
"""

from __future__ import annotations

from engine.config.errors import UserError

NOT_SELECTED, ALSO_IN_TRAINING = "data.max_rows", "data.validation_overlaps"
BY_SPLIT = (NOT_SELECTED, ALSO_IN_TRAINING)
"""Left out by the split, which reports them itself."""
TEMPLATE_REFUSED, TEMPLATE_FAILED = "data.template_refused", "data.template_failed"
ANSWER_NOT_RENDERED, CUT_BEFORE_ANSWER = "data.answer_not_rendered", "data.cut_before_answer"

MINORITY_LABEL, NO_MAJORITY = "data.minority_label", "data.no_majority_label"
TOO_LONG = "data.too_long"
TEMPLATE_DROPS = "data.template_drops_"
"""Prefix of the codes of what a chat template drops."""
TOOLS, CALLS, RESULTS = (f"{TEMPLATE_DROPS}{part}" for part in ("tools", "calls", "tool_results"))
REASONING, SYSTEM, USER = (f"{TEMPLATE_DROPS}{part}" for part in ("reasoning", "system", "user"))
HISTORY, NAMES, KEYS = (f"{TEMPLATE_DROPS}{part}" for part in ("history", "names", "keys"))

NO_END_TOKEN = "data.no_end_token"
DOUBLE_BOS = "data.double_bos"
HISTORY_REWRITTEN = "data.history_rewritten"
OPENS_WITH_ANSWER = "data.opens_with_answer"
SPECIAL_TOKEN_IN_TEXT = "data.special_token_in_text"
TOKEN_ACROSS_BOUNDARY = "data.token_across_boundary"
TURNS_DROPPED, TWO_ANSWERS = "data.turns_dropped", "data.two_answers"
EMPTY_TURN = "data.empty_turn"
END_TOKEN_REMOVED = "data.end_token_removed"
MISREAD_TEXT = "data.misread_text"

LEFT_OUT = {
    NOT_SELECTED: "not selected by data.max_rows",
    ALSO_IN_TRAINING: "validation row whose prompt is also in training or test",
    "data.media": "image, audio or video content, but only text is supported",
    "data.empty": "prompt, answer or text is empty",
    "data.no_answer": "no answer to train on",
    "data.unknown_role": "message with an unknown role",
    "data.no_label": "missing label",
    "data.no_choice": "the answer is none of the options",
    "data.scores": "different numbers of answers and scores",
    "data.undesirable": "marked as undesirable by its label",
    "data.unanswerable": "question without an answer",
    TOO_LONG: "longer than max_length (data.long = leave_out)",
    MINORITY_LABEL: "test row with another label than most rows of its prompt",
    NO_MAJORITY: "test row of a prompt that has no label in most of its rows",
    "data.no_prompt": "no message before the answer",
    "data.empty_answer": "the answer is empty",
    CUT_BEFORE_ANSWER: "no token of the answer is left after truncation to max_length",
    ANSWER_NOT_RENDERED: "the chat template leaves out the content of the last answer",
    CALLS: "the chat template does not render tool calls, so the answer is lost",
    REASONING: "the chat template does not render the reasoning of the answer",
    TEMPLATE_REFUSED: "the chat template rejects the conversation",
    TEMPLATE_FAILED: "the chat template fails on the conversation",
}
"""Code -> why rows are left out. A data format of another package may use further codes."""
EXCLUDED_BY_DATA = frozenset({"data.undesirable", "data.unanswerable", MINORITY_LABEL, NO_MAJORITY, TOO_LONG})
"""Left out because the data says so; they never make a dataset unusable."""
_REMEDIES = {
    "data.unknown_role": "use user, assistant, system and tool",
    "data.no_answer": "set data.separator or data.map so that every row has an answer",
    CUT_BEFORE_ANSWER: "shorten the prompts, or use a larger `--set train.max_length=N`",
    TEMPLATE_REFUSED: "`--set model.chat_template=FILE` with a template that accepts these conversations",
    TEMPLATE_FAILED: "correct the template, or use another with `--set model.chat_template=FILE`",
    CALLS: "`--set model.chat_template=tools-plain`, or a file with a template that renders tool calls",
    REASONING: "`--set model.chat_template=FILE` that renders reasoning_content, or remove the reasoning",
    ANSWER_NOT_RENDERED: "`--set model.chat_template=FILE` with a template that renders all answers",
}
_TEMPLATE_REFUSALS = {
    TEMPLATE_REFUSED: "the chat template rejects {bad:,} of {total:,} {split} rows: {what}",
    TEMPLATE_FAILED: "the chat template fails on {bad:,} of {total:,} {split} rows: {what}",
    CALLS: "{bad:,} of {total:,} {split} rows lose their answer: {what}",
    REASONING: "{bad:,} of {total:,} {split} rows lose their reasoning: {what}",
    ANSWER_NOT_RENDERED: "{bad:,} of {total:,} {split} rows lose their answer: {what}",
}
NOTES = {
    NO_END_TOKEN: "no end-of-turn token after the answer: the model may not learn to stop generating",
    DOUBLE_BOS: "two beginning-of-sequence tokens: the text or the template adds a second one",
    HISTORY_REWRITTEN: "the template rewrites earlier turns: only the last answer is in the loss",
    OPENS_WITH_ANSWER: "the conversation starts with an assistant message: it is not in the loss",
    SPECIAL_TOKEN_IN_TEXT: "the text itself contains a special token of the model",
    TOKEN_ACROSS_BOUNDARY: "a token would span the end of the prompt and the start of the answer: they are tokenized "
    "separately",
    END_TOKEN_REMOVED: "an answer ends with a literal end token, which is removed: the template writes the model's own",
    MISREAD_TEXT: "text was decoded with the wrong encoding (such as `Ã©` for é, `â€™` for ’, or a replacement "
    "character): write the file again from its source",
    TURNS_DROPPED: "messages after the last answer are dropped, such as a user message without an answer",
    TWO_ANSWERS: "two assistant messages in a row: both are in the loss, and the second one answers no message",
    EMPTY_TURN: "an answer before the last one is empty: it is not in the loss",
    TOOLS: "the chat template does not render the tools",
    CALLS: "the chat template does not render tool calls of earlier turns",
    RESULTS: "the chat template does not render tool results",
    REASONING: "the chat template does not render the reasoning of earlier answers",
    SYSTEM: "the chat template does not render the system message",
    USER: "the chat template does not render a user message",
    HISTORY: "the chat template does not render an earlier assistant message",
    NAMES: "the chat template does not render the names of messages",
    KEYS: "the chat template does not render other keys of messages",
}
"""Code -> text of the warning."""


def meaning(note: str) -> tuple[str, str]:
    """(code, text) of the warning for a note."""
    head, separator, hint = note.partition("; ")
    code, _, detail = head.partition(" ")
    return code, NOTES[code] + (f" ({detail})" if detail else "") + (f"; {hint}" if separator else "")


def enough_length(longest: int) -> str:
    """The setting that fits rows of this many tokens: `--set train.max_length=1536`."""
    return f"--set train.max_length={-(-longest // 64) * 64}"


def refusal(kind: str, what: str, where: str, split: str, bad: int, total: int, of_kind: int) -> UserError:
    """The error for `bad` of `total` rows of a split that cannot be trained on, most of them of one kind.

    `what` and `where`: description and place of the first of the `of_kind` rows of this kind. What follows `; ` in
    `what` is a setting that was tried and works.
    """
    what, _, tried = what.partition("; ")
    if kind in _TEMPLATE_REFUSALS:
        text = _TEMPLATE_REFUSALS[kind].format(bad=of_kind, total=total, split=split, what=what)
        return UserError(text, where, tried or _REMEDIES[kind], code=kind)
    text = f"{bad:,} of {total:,} {split} rows have no token in the loss, mostly: {LEFT_OUT.get(kind, kind)} ({what})"
    hint = tried or _REMEDIES.get(kind, "correct the rows, or set data.format or data.map")
    return UserError(text, where, hint, code="data.too_many_unusable_rows")
