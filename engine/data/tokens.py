"""From conversations and texts to token ids and labels: the one place where it is decided what is learnt.

Learnt is every answer and the end token that closes it. The text of the template around them, and what it
writes behind an end token (ChatML's line feed), are read and not learnt.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

from engine.config.errors import UserError
from engine.data.chat_template import ChatTemplate
from engine.data.conversation import Example, Problem
from engine.data.encoding import ChatEncoder, Encoder
from engine.data.patterns import PatternRenderer
from engine.data.rendering import Rendered, Renderer, has_template
from engine.data.special_tokens import SpecialTokens

IGNORED = -100
"""The label of a token that is not learnt: cross entropy's ignore_index."""
_AT_ONCE = 1024
_CHARACTERS = 1 << 22
_VERIFIED = 4
"""Rows of a batch in which the place of the answer is looked up in two ways."""


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
    item: int = -1
    """Number of the evaluation item that a held-out row belongs to: rows of one prompt share it. -1: its own item."""


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

    Raises UserError when a conversation meets a tokenizer without a chat template, or one with a broken template.
    """
    return list(RowMaker(tokenizer, max_length).rows(examples))


class RowMaker:
    """Makes rows of examples with one tokenizer; what it finds out about the chat template serves all of them."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.special = SpecialTokens.of(tokenizer)
        self.encoder = Encoder(tokenizer)
        self.chat_encoder = ChatEncoder(self.encoder, self.special)
        self.chats = has_template(tokenizer)
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._renderer: PatternRenderer | None = None

    def rows(self, examples: Iterable[Example]) -> Iterator[Row | Problem]:
        """One result for each example, in order, made in batches."""
        for batch in _batches(examples):
            as_text = [not self.chats or example.messages is None for example in batch]
            texts = iter(self._plain_rows([e for e, text in zip(batch, as_text, strict=True) if text]))
            chats = iter(self._chat_rows([e for e, text in zip(batch, as_text, strict=True) if not text]))
            for text in as_text:
                yield next(texts if text else chats)

    def _plain_rows(self, examples: list[Example]) -> Iterator[Row | Problem]:
        """Prompt, completion and end token as plain text, behind the special tokens the tokenizer puts in front."""
        for example in examples:
            if example.prompt is None or example.completion is None:
                do = 'set model.chat_template to a Jinja file, or to "tools-chatml" or "tools-plain"'
                what = "conversations need a chat template and this model has none"
                raise UserError(what, example.where, do, code="data.no_template")
        prompts = [example.prompt or "" for example in examples]
        answers = [example.completion or "" for example in examples]
        wholes = self.encoder.ids([a + b for a, b in zip(prompts, answers, strict=True)], special=True)
        befores = self.encoder.ids(prompts, special=True)
        eos = self.eos
        for example, answer, whole, before in zip(examples, answers, wholes, befores, strict=True):
            notes = []
            before, whole = _unclosed(before, eos), _unclosed(whole, eos)
            if whole[: len(before)] != before:
                whole = before + _unclosed(self.encoder.ids([answer])[0], eos)
                notes.append("token across the answer's beginning")
            if eos is None:
                notes.append("no end token")
            ids = whole if eos is None else [*whole, eos]
            if self.special.within(f"{example.prompt}{answer}"):
                notes.append("special token in the text")
            weight = example.weight(len(example.messages) - 1 if example.messages else 0)
            yield self._row(example, ids, [Span(len(before), len(ids), weight)], before, answer, notes)

    def _chat_rows(self, examples: list[Example]) -> Iterator[Row | Problem]:
        """Conversations by the template. It writes the beginning-of-text token itself, so the tokenizer must not."""
        if not examples:
            return
        drafts = self._render(examples)
        rendered = [draft for draft in drafts if isinstance(draft, Rendered)]
        encoded = iter(self._encoded(rendered))
        for example, draft in zip(examples, drafts, strict=True):
            if isinstance(draft, Problem):
                yield draft
                continue
            ids, spans, prompt, split = next(encoded)
            notes = [*draft.notes, "token across the answer's beginning"] if split else list(draft.notes)
            yield self._row(example, ids, spans, prompt, draft.target, notes)

    def _render(self, examples: list[Example]) -> list[Rendered | Problem]:
        if self._renderer is None:
            self._renderer = PatternRenderer(Renderer(self.tokenizer, ChatTemplate(self.tokenizer)))
        return self._renderer.render(examples)

    def _encoded(self, drafts: list[Rendered]) -> list[Encoded]:
        """Ids, answers and prompt of each conversation."""
        wholes = self.chat_encoder.ids(drafts)
        isin = self.special.ids.__contains__
        specials = [[n for n, id_ in enumerate(ids) if isin(id_)] for ids in wholes]
        starts = [self.chat_encoder.starts(*one) for one in zip(drafts, wholes, specials, strict=True)]
        self._verify(drafts, wholes, starts)
        unknown = [number for number, found in enumerate(starts) if found is None]
        befores = iter(self.encoder.ids([drafts[n].whole[: turn.start] for n in unknown for turn in drafts[n].turns]))
        made = []
        for draft, ids, places, found in zip(drafts, wholes, specials, starts, strict=True):
            if found is not None:
                made.append(Encoded(ids, _spans(draft, ids, found, places, self.encoder), ids[: found[-1]], False))
            else:
                made.append(self._by_prefixes(draft, ids, places, [next(befores) for _ in draft.turns]))
        return made

    def _verify(self, drafts: list[Rendered], wholes: list[list[int]], starts: list[list[int] | None]) -> None:
        """Hold some of the prompts found by special tokens against encoding them; forget all where one differs."""
        told = [number for number, found in enumerate(starts) if found is not None]
        few = told[:: max(1, -(-len(told) // _VERIFIED))]
        prompts = self.encoder.ids([drafts[n].whole[: drafts[n].turns[-1].start] for n in few])
        if any(wholes[n][: starts[n][-1]] != prompt for n, prompt in zip(few, prompts, strict=True)):  # type: ignore[index]
            self.chat_encoder.separate = False
            starts[:] = [None] * len(starts)

    def _by_prefixes(self, draft: Rendered, ids: list[int], specials: list[int], befores: list[list[int]]) -> Encoded:
        """Answers found by encoding the text before each of them."""
        starts, prompt, split = [len(before) for before in befores], befores[-1], False
        if any(ids[: len(before)] != before for before in befores):
            ids, starts = _in_pieces(draft, self.encoder)
            prompt, split = ids[: starts[-1]], True
            specials = [n for n, id_ in enumerate(ids) if id_ in self.special.ids]
        return Encoded(ids, _spans(draft, ids, starts, specials, self.encoder), prompt, split)

    def _row(
        self, example: Example, ids: list[int], spans: list[Span], prompt: list[int], target: str, notes: list[str]
    ) -> Row | Problem:
        """Lay the labels, cut on the right, and refuse what is left without a label."""
        labels = [IGNORED] * len(ids)
        for span in spans:
            labels[span.start : span.stop] = ids[span.start : span.stop]
        if self.bos is not None and ids[:2] == [self.bos, self.bos]:
            notes.append("two beginning-of-text tokens")
        answer = sum(span.stop - span.start for span in spans)
        cut = len(ids) > self.max_length
        kept = labels[: self.max_length] if cut else labels
        if not answer or (cut and kept.count(IGNORED) == len(kept)):
            kind = "data.cut_before_answer" if answer else "data.empty_answer"
            what = (
                f"the answer begins behind max_length: {spans[0].start + 1:,} tokens" if answer else "no token to learn"
            )
            return Problem(kind, what, example.where, len(ids))
        weights = _weights(spans, len(ids), self.max_length)
        shown = ids[: self.max_length] if cut else ids
        references = example.references
        return Row(shown, kept, prompt, target, example.where, cut, tuple(notes), len(ids), answer, weights, references)


class Encoded(NamedTuple):
    """A conversation as tokens."""

    ids: list[int]
    spans: list[Span]
    prompt: list[int]
    split: bool
    """Whether a token would have reached across the beginning of an answer."""


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Batches of at most _AT_ONCE examples and not much more than _CHARACTERS of text."""
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += sum(len(turn["content"]) for turn in example.messages or []) or len(example.completion or "")
        if len(batch) == _AT_ONCE or size > _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _in_pieces(draft: Rendered, encoder: Encoder) -> tuple[list[int], list[int]]:
    """Ids with a token boundary before every answer, as when the answer is generated, and those boundaries."""
    cuts = [0, *(turn.start for turn in draft.turns), len(draft.whole)]
    ids: list[int] = []
    starts = []
    for piece in encoder.ids([draft.whole[a:b] for a, b in pairwise(cuts)]):
        starts.append(len(ids))
        ids += piece
    return ids, starts[1:]


def _spans(draft: Rendered, ids: list[int], starts: list[int], specials: list[int], encoder: Encoder) -> list[Span]:
    """From the first token of each answer to past its end token, found by counting special tokens."""
    spans = []
    for turn, start, following in zip(draft.turns, starts, [*starts[1:], len(ids)], strict=True):
        last = bisect_left(specials, start) + turn.specials - 1
        end = specials[last] + 1 if turn.specials and last < len(specials) else 0
        if not end or end > following:
            end = min(len(encoder.ids([draft.whole[: turn.stop]])[0]), following)
        spans.append(Span(start, end, turn.weight))
    return spans


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
