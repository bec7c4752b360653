"""From conversations and texts to token ids and labels: the one place where it is decided what is learnt.

Learnt is every answer and the end token that closes it. The text of the template around them, and what it
writes behind an end token (ChatML's line feed), are read and not learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from engine.contract.errors import UserError
from engine.data.conversation import Example, Problem
from engine.data.rendering import Rendered, Renderer, has_template

IGNORED = -100
"""The label of a token that is not learnt: cross entropy's ignore_index."""
_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Row:
    """What a model is given: `input_ids` and `labels` of equal length, at most max_length."""

    input_ids: list[int]
    labels: list[int]
    """The id itself where it is learnt, else -100. Not shifted."""
    prompt: list[int]
    """What to generate the last answer from; ends with the generation prompt; never cut."""
    target: str
    """The last answer's text."""
    where: str
    cut: bool
    """Whether max_length cut it on the right."""
    notes: tuple[str, ...] = ()
    length: int = 0
    """Tokens before the cut."""
    answer: int = 0
    """Learnt tokens before the cut."""
    weights: list[float] | None = None
    """Loss weight of each token, as long as `input_ids`; None where every token in the loss has weight 1."""
    references: tuple[str, ...] = ()
    """Other accepted answers; a test row is scored against `target` and all of these."""


class Span(NamedTuple):
    """Tokens from `start` to before `stop` that are in the loss with `weight` each."""

    start: int
    stop: int
    weight: float = 1.0


def tokenize(example: Example, tokenizer: Any, max_length: int) -> Row | Problem:
    """One example's ids and labels, or why it has nothing to learn."""
    return tokenize_all([example], tokenizer, max_length)[0]


def tokenize_all(examples: Sequence[Example], tokenizer: Any, max_length: int) -> list[Row | Problem]:
    """Like `tokenize`, for many at once: much faster than one by one.

    Raises UserError when a conversation meets a tokenizer without a chat template.
    """
    results: list[Row | Problem] = []
    plain = not has_template(tokenizer)
    renderer = Renderer(tokenizer)
    for start in range(0, len(examples), _AT_ONCE):
        batch = examples[start : start + _AT_ONCE]
        as_text = [plain or example.messages is None for example in batch]
        texts = iter(_plain_rows([e for e, text in zip(batch, as_text, strict=True) if text], renderer, max_length))
        chats = iter(_chat_rows([e for e, text in zip(batch, as_text, strict=True) if not text], renderer, max_length))
        results += [next(texts if text else chats) for text in as_text]
    return results


def _plain_rows(examples: list[Example], renderer: Renderer, max_length: int) -> Iterator[Row | Problem]:
    """Prompt, completion and end token as plain text, behind the special tokens the tokenizer itself puts in front."""
    tokenizer = renderer.tokenizer
    for example in examples:
        if example.prompt is None or example.completion is None:
            do = "set model.chat_template to a Jinja file"
            raise UserError("conversations need a chat template and this model has none", example.where, do)
    prompts = [example.prompt or "" for example in examples]
    answers = [example.completion or "" for example in examples]
    wholes = _encode(
        tokenizer, [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)], special=True
    )
    befores = _encode(tokenizer, prompts, special=True)
    eos = tokenizer.eos_token_id
    for example, answer, whole, before in zip(examples, answers, wholes, befores, strict=True):
        notes = []
        before, whole = _unclosed(before, eos), _unclosed(whole, eos)
        if whole[: len(before)] != before:
            whole = before + _unclosed(_encode(tokenizer, [answer], special=False)[0], eos)
            notes.append("token across the answer's beginning")
        if eos is None:
            notes.append("no end token")
        ids = whole if eos is None else [*whole, eos]
        if renderer.special.search(f"{example.prompt}{answer}"):
            notes.append("special token in the text")
        weight = example.weight(len(example.messages) - 1 if example.messages else 0)
        yield _row(example, ids, [Span(len(before), len(ids), weight)], before, answer, notes, renderer, max_length)


def _chat_rows(examples: list[Example], renderer: Renderer, max_length: int) -> Iterator[Row | Problem]:
    """Conversations by the template. It writes the beginning-of-text token itself, so the tokenizer must not."""
    drafts = [renderer.render(example) for example in examples]
    texts = [text for draft in drafts if isinstance(draft, Rendered) for text in _texts(draft)]
    encoded = iter(_encode(renderer.tokenizer, texts, special=False))
    for example, draft in zip(examples, drafts, strict=True):
        if isinstance(draft, Problem):
            yield draft
            continue
        whole = next(encoded)
        befores = [next(encoded) for _ in draft.turns]
        notes = list(draft.notes)
        starts = [len(before) for before in befores]
        prompt = befores[-1]
        if any(whole[: len(before)] != before for before in befores):
            whole, starts = _in_pieces(draft, renderer.tokenizer)
            prompt = whole[: starts[-1]]
            notes.append("token across the answer's beginning")
        ends = [
            _end(whole, start, turn.specials, following, renderer, draft.whole[: turn.stop])
            for start, following, turn in zip(starts, [*starts[1:], len(whole)], draft.turns, strict=True)
        ]
        spans = [Span(a, b, turn.weight) for a, b, turn in zip(starts, ends, draft.turns, strict=True)]
        yield _row(example, whole, spans, prompt, draft.target, notes, renderer, max_length)


def _texts(draft: Rendered) -> list[str]:
    """What has to be encoded: the whole, and the text before each answer to find where it begins."""
    return [draft.whole, *(draft.whole[: turn.start] for turn in draft.turns)]


def _in_pieces(draft: Rendered, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids with a token boundary before every answer, as when the answer is generated, and those boundaries."""
    cuts = [0, *(turn.start for turn in draft.turns), len(draft.whole)]
    ids: list[int] = []
    starts = []
    for piece in _encode(tokenizer, [draft.whole[a:b] for a, b in pairwise(cuts)], special=False):
        starts.append(len(ids))
        ids += piece
    return ids, starts[1:]


def _end(ids: list[int], start: int, specials: int, following: int, renderer: Renderer, text: str) -> int:
    """The index past an answer's end token: special tokens are never split, so counting them is enough."""
    places = [n for n in range(start, following) if ids[n] in renderer.special_ids] if specials else []
    if specials and len(places) >= specials:
        return places[specials - 1] + 1
    return min(len(_encode(renderer.tokenizer, [text], special=False)[0]), following)


def _row(
    example: Example,
    ids: list[int],
    spans: list[Span],
    prompt: list[int],
    target: str,
    notes: list[str],
    renderer: Renderer,
    max_length: int,
) -> Row | Problem:
    """Lay the labels, cut on the right, and refuse what is left without a label."""
    labels = [IGNORED] * len(ids)
    for span in spans:
        labels[span.start : span.stop] = ids[span.start : span.stop]
    bos = renderer.tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        notes.append("two beginning-of-text tokens")
    answer = len(labels) - labels.count(IGNORED)
    kept = labels[:max_length]
    if kept.count(IGNORED) == len(kept):
        what = f"the answer begins behind max_length: {spans[0].start + 1:,} tokens" if answer else "no token to learn"
        return Problem("nothing left to learn after the cut" if answer else "empty", what, example.where, len(ids))
    cut = len(ids) > max_length
    weights = _weights(spans, len(ids), max_length)
    notes = [*example.notes, *notes]
    return Row(ids[:max_length], kept, prompt, target, example.where, cut, tuple(notes), len(ids), answer, weights)


def _weights(spans: list[Span], length: int, max_length: int) -> list[float] | None:
    """Each token's weight in the loss, or None where those in the loss all have weight 1."""
    if all(span.weight == 1.0 for span in spans):
        return None
    weights = [0.0] * length
    for span in spans:
        weights[span.start : span.stop] = [span.weight] * (span.stop - span.start)
    return weights[:max_length]


def _unclosed(ids: list[int], eos: int | None) -> list[int]:
    """Ids without an end token that the tokenizer puts behind every text: it belongs behind the answer only."""
    return ids[:-1] if ids and ids[-1] == eos else ids


def _encode(tokenizer: Any, texts: list[str], special: bool) -> list[list[int]]:
    if not texts:
        return []
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    encoded = tokenizer(texts, add_special_tokens=special, **options)["input_ids"]
    return [list(ids) for ids in encoded]
