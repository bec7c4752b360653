"""Convert conversations and texts to token ids and labels. The loss mask is decided only here.

Answers and their end tokens are in the loss. The template's text around them, and what it writes after an end token
(ChatML's line feed), is not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress, pairwise
from typing import Any, NamedTuple

from engine.config.errors import UserError
from engine.data.chat_template import ChatTemplate, has_template, template_name
from engine.data.encoding import Encoder, SpecialTokens
from engine.data.parallel import template_memory
from engine.data.patterns import PatternRenderer
from engine.data.problems import (
    CUT_BEFORE_ANSWER,
    DOUBLE_BOS,
    NO_END_TOKEN,
    SPECIAL_TOKEN_IN_TEXT,
    TOKEN_ACROSS_BOUNDARY,
)
from engine.data.rendering import AnswerPosition, Rendered, Renderer
from engine.data.rows import IGNORE_INDEX, Example, Problem, Row

_AT_ONCE = 1024
_CHARACTERS = 1 << 22
_VERIFIED = 4
"""Rows of a batch in which the position of the answer is determined in two ways."""


class Span(NamedTuple):
    """Tokens in [start, stop) that are in the loss, each with `weight`."""

    start: int
    stop: int
    weight: float = 1.0


class Encoded(NamedTuple):
    """A tokenized conversation."""

    ids: list[int]
    spans: list[Span]
    prompt: list[int]
    crosses_answer: bool
    """Whether a token would span the beginning of an answer."""


class RowTokenizer:
    """Tokenizes examples with one tokenizer, in a child process (`engine.data.parallel`).

    What it learns about the chat template is reused for all of them.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        self.special = SpecialTokens.of(tokenizer)
        self.encoder = Encoder(tokenizer)
        self.chat_encoder = ChatEncoder(self.encoder, self.special)
        self.chats = has_template(tokenizer)
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self._renderer: PatternRenderer | None = None

    def rows(self, examples: Iterable[Example]) -> Iterator[Row | Problem]:
        """One result per example, in order; processed in batches.

        Raises UserError for a conversation and a tokenizer without a chat template, and for a broken template.
        """
        for batch in _batches(examples):
            as_text = [not self.chats or example.messages is None for example in batch]
            texts = iter(self._plain_rows([e for e, text in zip(batch, as_text, strict=True) if text]))
            chats = iter(self._chat_rows([e for e, text in zip(batch, as_text, strict=True) if not text]))
            for text in as_text:
                yield next(texts if text else chats)

    def _plain_rows(self, examples: list[Example]) -> Iterator[Row | Problem]:
        """Prompt, completion and end token as plain text, after the special tokens that the tokenizer adds in front."""
        for example in examples:
            if example.prompt is None or example.completion is None:
                hint = "--set model.chat_template=tools-chatml, tools-plain or a Jinja file"
                problem = "conversations need a chat template, and this model has none"
                raise UserError(problem, example.where, hint, code="data.no_template")
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
                notes.append(TOKEN_ACROSS_BOUNDARY)
            if eos is None:
                notes.append(NO_END_TOKEN)
            ids = whole if eos is None else [*whole, eos]
            if self.special.within(f"{example.prompt}{answer}"):
                notes.append(SPECIAL_TOKEN_IN_TEXT)
            weight = example.weight(len(example.messages) - 1 if example.messages else 0)
            yield self._row(example, ids, [Span(len(before), len(ids), weight)], before, answer, notes)

    def _chat_rows(self, examples: list[Example]) -> Iterator[Row | Problem]:
        """Conversations by the template, which writes the beginning-of-sequence token, so the tokenizer must not."""
        if not examples:
            return
        drafts = self._render(examples)
        rendered = [draft for draft in drafts if isinstance(draft, Rendered)]
        encoded = iter(self._encoded(rendered))
        for example, draft in zip(examples, drafts, strict=True):
            if isinstance(draft, Problem):
                yield draft
                continue
            ids, spans, prompt, crosses_answer = next(encoded)
            notes = [*draft.notes, TOKEN_ACROSS_BOUNDARY] if crosses_answer else list(draft.notes)
            yield self._row(example, ids, spans, prompt, draft.target, notes)

    def _render(self, examples: list[Example]) -> list[Rendered | Problem]:
        with template_memory(template_name(self.tokenizer)):
            if self._renderer is None:
                self._renderer = PatternRenderer(Renderer(self.tokenizer, ChatTemplate(self.tokenizer)))
            return self._renderer.render(examples)

    def _encoded(self, drafts: list[Rendered]) -> list[Encoded]:
        """Ids, answer spans and prompt of each conversation."""
        wholes = self.chat_encoder.ids(drafts)
        isin = self.special.ids.__contains__
        specials = [[*compress(range(len(ids)), map(isin, ids))] for ids in wholes]
        starts = [
            self.chat_encoder.starts(*conversation) for conversation in zip(drafts, wholes, specials, strict=True)
        ]
        self._verify(drafts, wholes, starts)
        unknown = [number for number, answer_starts in enumerate(starts) if answer_starts is None]
        befores = iter(
            self.encoder.ids([drafts[n].whole[: answer.start] for n in unknown for answer in drafts[n].answers])
        )
        results = []
        for draft, ids, places, answer_starts in zip(drafts, wholes, specials, starts, strict=True):
            if answer_starts is not None:
                results.append(
                    Encoded(
                        ids, _spans(draft, ids, answer_starts, places, self.encoder), ids[: answer_starts[-1]], False
                    )
                )
            else:
                results.append(self._by_prefixes(draft, ids, places, [next(befores) for _ in draft.answers]))
        return results

    def _verify(self, drafts: list[Rendered], wholes: list[list[int]], starts: list[list[int] | None]) -> None:
        """Compare some prompts found by special tokens with encoding them; if one differs, discard all."""
        located = [number for number, answer_starts in enumerate(starts) if answer_starts is not None]
        few = located[:: max(1, -(-len(located) // _VERIFIED))]
        prompts = self.encoder.ids([drafts[n].whole[: drafts[n].answers[-1].start] for n in few])
        if any(wholes[n][: starts[n][-1]] != prompt for n, prompt in zip(few, prompts, strict=True)):  # type: ignore[index]
            self.chat_encoder.separate = False
            starts[:] = [None] * len(starts)

    def _by_prefixes(self, draft: Rendered, ids: list[int], specials: list[int], befores: list[list[int]]) -> Encoded:
        """Locate answers by encoding the text before each of them."""
        starts, prompt, crosses_answer = [len(before) for before in befores], befores[-1], False
        if any(ids[: len(before)] != before for before in befores):
            ids, starts = _in_pieces(draft, self.encoder)
            prompt, crosses_answer = ids[: starts[-1]], True
            specials = [n for n, id_ in enumerate(ids) if id_ in self.special.ids]
        return Encoded(ids, _spans(draft, ids, starts, specials, self.encoder), prompt, crosses_answer)

    def _row(
        self, example: Example, ids: list[int], spans: list[Span], prompt: list[int], target: str, notes: list[str]
    ) -> Row | Problem:
        """Set labels and truncate on the right; a Problem if no label is left."""
        labels = [IGNORE_INDEX] * len(ids)
        for span in spans:
            labels[span.start : span.stop] = ids[span.start : span.stop]
        if self.bos is not None and ids[:2] == [self.bos, self.bos]:
            notes.append(DOUBLE_BOS)
        answer = sum(span.stop - span.start for span in spans)
        cut = len(ids) > self.max_length
        kept = labels[: self.max_length] if cut else labels
        if not answer or (cut and kept.count(IGNORE_INDEX) == len(kept)):
            kind = CUT_BEFORE_ANSWER if answer else "data.empty_answer"
            what = (
                f"the answer starts at token {spans[0].start + 1:,}, after max_length"
                if answer
                else "no token in the loss"
            )
            return Problem(kind, what, example.where, len(ids))
        weights = _weights(spans, len(ids), self.max_length)
        shown = ids[: self.max_length] if cut else ids
        whole_notes = (*(note for note in example.notes if note not in notes), *notes)
        return Row(
            shown, kept, prompt, target, example.where, cut, whole_notes, len(ids), answer, weights, example.references,
            calls=any(example.conversation[number].get("tool_calls") for number in example.trained),
        )  # fmt: skip


class ChatEncoder:
    """Encodes rendered conversations once, and locates their answers by the special tokens before them.

    A tokenizer splits a text at special tokens and encodes the pieces separately. So the tokens of a prompt are a
    prefix of the conversation's tokens if those after the prompt's last special token are. This is verified on some
    rows of each batch by encoding their prompts separately.
    """

    def __init__(self, encoder: Encoder, special: SpecialTokens) -> None:
        self.encoder, self.special = encoder, special
        self.separate = special.separate
        self._anchors: dict[str, list[int] | None] = {}
        self._heads: dict[str, list[int]] = {}

    def ids(self, drafts: Sequence[Rendered]) -> list[list[int]]:
        """Token ids of each conversation. A shared beginning is encoded once."""
        if not self.separate or not self._heads_hold(drafts):
            return self.encoder.ids([draft.whole for draft in drafts])
        rests = self.encoder.ids([draft.whole[len(draft.head) :] for draft in drafts])
        return [self._heads[draft.head] + ids if draft.head else ids for draft, ids in zip(drafts, rests, strict=True)]

    def _heads_hold(self, drafts: Sequence[Rendered]) -> bool:
        """Encode new heads. Whether the first conversation of each is the ids of its head plus those of the rest."""
        firsts = {draft.head: draft for draft in reversed(drafts) if draft.head and draft.head not in self._heads}
        for head, draft in firsts.items():
            whole, ids, rest = self.encoder.ids([draft.whole, head, draft.whole[len(head) :]])
            if ids + rest != whole:
                self.separate = False
                return False
            self._heads[head] = ids
        return True

    def starts(self, draft: Rendered, ids: list[int], specials: list[int]) -> list[int] | None:
        """Index of each answer's first token, from the positions of special tokens; None if that is not possible."""
        if not self.separate or len(specials) != draft.specials:
            return None
        answer_starts = []
        for answer in draft.answers:
            anchor = self._anchor(answer)
            if anchor is None:
                return None
            begin = specials[answer.before - 1]
            if ids[begin : begin + len(anchor)] != anchor:
                return None
            answer_starts.append(begin + len(anchor))
        return answer_starts

    def _anchor(self, answer: AnswerPosition) -> list[int] | None:
        """Ids of a generation prompt from its last special token on."""
        if answer.anchor not in self._anchors:
            ids = self.encoder.ids([answer.anchor])[0] if answer.anchor else []
            self._anchors[answer.anchor] = ids if ids and ids[0] in self.special.ids else None
        return self._anchors[answer.anchor]


def _batches(examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Batches of at most _AT_ONCE examples and about _CHARACTERS characters."""
    batch: list[Example] = []
    size = 0
    for example in examples:
        batch.append(example)
        size += sum(len(turn["content"]) for turn in example.conversation) or len(example.completion or "")
        if len(batch) == _AT_ONCE or size > _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _in_pieces(draft: Rendered, encoder: Encoder) -> tuple[list[int], list[int]]:
    """Ids with a token boundary before every answer, as in generation, and these boundaries."""
    cuts = [0, *(answer.start for answer in draft.answers), len(draft.whole)]
    ids: list[int] = []
    starts = []
    for piece in encoder.ids([draft.whole[a:b] for a, b in pairwise(cuts)]):
        starts.append(len(ids))
        ids += piece
    return ids, starts[1:]


def _spans(draft: Rendered, ids: list[int], starts: list[int], specials: list[int], encoder: Encoder) -> list[Span]:
    """The span of each answer including its end token, found by counting special tokens."""
    spans = []
    for answer, start, following in zip(draft.answers, starts, [*starts[1:], len(ids)], strict=True):
        last = bisect_left(specials, start) + answer.specials - 1
        end = specials[last] + 1 if answer.specials and last < len(specials) else 0
        if not end or end > following:
            end = min(len(encoder.ids([draft.whole[: answer.stop]])[0]), following)
        spans.append(Span(start, end, answer.weight))
    return spans


def _weights(spans: list[Span], length: int, max_length: int) -> list[float] | None:
    """Each token's loss weight, or None if those in the loss all have weight 1."""
    if all(span.weight == 1.0 for span in spans):
        return None
    weights = [0.0] * length
    for span in spans:
        weights[span.start : span.stop] = [span.weight] * (span.stop - span.start)
    return weights[:max_length]


def _unclosed(ids: list[int], eos: int | None) -> list[int]:
    """Ids without an end token that the tokenizer adds to every text: it belongs only after the answer."""
    return ids[:-1] if ids and ids[-1] == eos else ids
