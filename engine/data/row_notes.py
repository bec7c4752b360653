"""Notes on rows: what was noticed about a row that is trained on, and the warning that becomes of it."""

from __future__ import annotations

from engine.data import dropped

EMPTY_TURN = "data.empty_turn"
NOTES = {
    "no end token": (
        "data.no_end_token",
        "no end-of-turn token after the answer: the model may not learn to stop",
    ),
    "two beginning-of-text tokens": (
        "data.double_bos",
        "two beginning-of-text tokens: the text or the template adds a second one",
    ),
    "history rewritten by the template": (
        "data.history_rewritten",
        "the template rewrites earlier turns: only the last answer is in the loss",
    ),
    "opens with an answer": (
        "data.opens_with_answer",
        "the conversation starts with an assistant message: it is not in the loss",
    ),
    "special token in the text": (
        "data.special_token_in_text",
        "the text itself contains a special token of the model",
    ),
    "token across the answer's beginning": (
        "data.token_across_boundary",
        "a token would span the end of the prompt and the start of the answer: they are tokenized separately",
    ),
    EMPTY_TURN: (EMPTY_TURN, "an answer before the last one is empty: it is not in the loss"),
    dropped.TOOLS: (dropped.TOOLS, "the chat template does not render the tools"),
    dropped.CALLS: (dropped.CALLS, "the chat template does not render tool calls of earlier turns"),
    dropped.RESULTS: (dropped.RESULTS, "the chat template does not render tool results"),
    dropped.REASONING: (dropped.REASONING, "the chat template does not render the reasoning of answers"),
    dropped.SYSTEM: (dropped.SYSTEM, "the chat template does not render the system message"),
    dropped.USER: (dropped.USER, "the chat template does not render a user message"),
    dropped.HISTORY: (dropped.HISTORY, "the chat template does not render an earlier assistant message"),
    dropped.NAMES: (dropped.NAMES, "the chat template does not render the names of messages"),
    dropped.KEYS: (dropped.KEYS, "the chat template does not render other keys of messages"),
}
"""Note on a row -> code and text of its warning."""


def meaning(note: str) -> tuple[str, str]:
    """(code, text) of the warning for a note. What follows the first `; ` of a note is what to do about it."""
    kind, mark, do = note.partition("; ")
    kind, space, which = kind.partition(" ") if kind.startswith("data.") else (kind, "", "")
    code, text = NOTES[kind]
    return code, f"{text}{f' ({which})' if space else ''}{f'; {do}' if mark else ''}"
