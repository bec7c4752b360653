"""Notes on rows that are trained on, and their warnings. A note is a code, followed by details."""

from __future__ import annotations

from engine.data import dropped

NO_END_TOKEN = "data.no_end_token"
DOUBLE_BOS = "data.double_bos"
HISTORY_REWRITTEN = "data.history_rewritten"
OPENS_WITH_ANSWER = "data.opens_with_answer"
SPECIAL_TOKEN_IN_TEXT = "data.special_token_in_text"
TOKEN_ACROSS_BOUNDARY = "data.token_across_boundary"
EMPTY_TURN = "data.empty_turn"
NOTES = {
    NO_END_TOKEN: "no end-of-turn token after the answer: the model may not learn to stop generating",
    DOUBLE_BOS: "two beginning-of-sequence tokens: the text or the template adds a second one",
    HISTORY_REWRITTEN: "the template rewrites earlier turns: only the last answer is in the loss",
    OPENS_WITH_ANSWER: "the conversation starts with an assistant message: it is not in the loss",
    SPECIAL_TOKEN_IN_TEXT: "the text itself contains a special token of the model",
    TOKEN_ACROSS_BOUNDARY: "a token would span the end of the prompt and the start of the answer: they are tokenized "
    "separately",
    EMPTY_TURN: "an answer before the last one is empty: it is not in the loss",
    dropped.TOOLS: "the chat template does not render the tools",
    dropped.CALLS: "the chat template does not render tool calls of earlier turns",
    dropped.RESULTS: "the chat template does not render tool results",
    dropped.REASONING: "the chat template does not render the reasoning of answers",
    dropped.SYSTEM: "the chat template does not render the system message",
    dropped.USER: "the chat template does not render a user message",
    dropped.HISTORY: "the chat template does not render an earlier assistant message",
    dropped.NAMES: "the chat template does not render the names of messages",
    dropped.KEYS: "the chat template does not render other keys of messages",
}
"""Code -> text of the warning."""


def meaning(note: str) -> tuple[str, str]:
    """(code, text) of the warning for a note: `CODE`, `CODE DETAIL`, and after the first `; ` what to do."""
    head, separator, do = note.partition("; ")
    code, _, detail = head.partition(" ")
    return code, NOTES[code] + (f" ({detail})" if detail else "") + (f"; {do}" if separator else "")
