"""From examples to token ids and labels, and back to the text of each token.

`conversation` decides which messages are answers, `rendering` where they are in the text, and this module which tokens
are in the loss.

Answers and their end tokens are in the loss. The template's text around them, and what it writes after an end token
(ChatML's line feed), is not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, compress, pairwise
from typing import Any, NamedTuple

from engine.data import problems
from engine.data.chat_template import ChatTemplate, SpecialTokens, has_template, no_template, template_name
from engine.data.parallel import template_memory
from engine.data.rendering import PatternRenderer, Rendered, Renderer, shared_length
from engine.data.rows import IGNORE_INDEX, Example, Problem, Row

_AT_ONCE = 1024
_CHARACTERS = 1 << 22
_VERIFIED = 4
"""Rows of a batch in which the position of the answer is determined in two ways."""
_CHECKED = 8
"""Texts that are encoded by the backend and by the tokenizer, to compare the ids."""
_OPTIONS = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
_REPLACEMENT = "\ufffd"
_AROUND = 8
"""Tokens decoded on both sides of a part: a character has at most four byte tokens."""
_WINDOW = 1024
"""Maximum tokens decoded together: this many tokens without a complete character are not text."""


class Span(NamedTuple):
    """Tokens in [start, stop) that are in the loss, each with `weight`."""

    start: int
    stop: int
    weight: float = 1.0


class RowTokenizer:
    """Tokenizes examples with one tokenizer, in a child process (`engine.data.parallel`).

    What it learns about the chat template is reused for all of them.
    """

    def __init__(self, tokenizer: Any, max_length: int, leave_out_long: bool = False) -> None:
        """leave_out_long: rows longer than max_length are problems instead of truncated."""
        self.tokenizer, self.max_length, self.leave_out_long = tokenizer, max_length, leave_out_long
        self.special = SpecialTokens.of(tokenizer)
        self.encoder = Encoder(tokenizer)
        self.splits_at_specials = self.special.separate
        """Whether the tokenizer splits a text at special tokens and encodes the pieces separately: then the tokens of a
        prompt are a prefix of the conversation's tokens if those from the prompt's last special token on are equal.
        Checked on some rows of each batch; False once that fails."""
        self._anchors: dict[str, list[int] | None] = {}
        """Text of a generation prompt from its last special token on -> its ids; None if it has no special token."""
        self._heads: dict[str, list[int]] = {}
        """Shared beginning of conversations -> its ids."""
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
                raise no_template("conversations", example.where)
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
                notes.append(problems.TOKEN_ACROSS_BOUNDARY)
            if eos is None:
                notes.append(problems.NO_END_TOKEN)
            ids = whole if eos is None else [*whole, eos]
            if self.special.within(f"{example.prompt}{answer}"):
                notes.append(problems.SPECIAL_TOKEN_IN_TEXT)
            weight = example.weight(len(example.messages) - 1 if example.messages else 0)
            yield self._row(example, ids, [Span(len(before), len(ids), weight)], before, answer, notes)

    def _chat_rows(self, examples: list[Example]) -> Iterator[Row | Problem]:
        """Conversations by the template, which writes the beginning-of-sequence token, so the tokenizer must not."""
        if not examples:
            return
        with template_memory(template_name(self.tokenizer)):
            if self._renderer is None:
                self._renderer = PatternRenderer(Renderer(self.tokenizer, ChatTemplate(self.tokenizer)))
            results = self._renderer.render(examples)
        rendered = [(e, result) for e, result in zip(examples, results, strict=True) if isinstance(result, Rendered)]
        rows = self._rendered_rows([example for example, _ in rendered], [draft for _, draft in rendered])
        for result in results:
            yield result if isinstance(result, Problem) else next(rows)

    def _rendered_rows(self, examples: list[Example], drafts: list[Rendered]) -> Iterator[Row | Problem]:
        """Encode rendered conversations, and locate their answers among the tokens."""
        wholes = self._conversation_ids(drafts)
        is_special = self.special.ids.__contains__
        specials = [[*compress(range(len(ids)), map(is_special, ids))] for ids in wholes]
        starts = [self._starts(*conversation) for conversation in zip(drafts, wholes, specials, strict=True)]
        # Encode some of the prompts that were found by special tokens. If the ids of one differ, discard all.
        located = [(number, found[-1]) for number, found in enumerate(starts) if found is not None]
        few = located[:: max(1, -(-len(located) // _VERIFIED))]
        prompts = self.encoder.ids([drafts[number].whole[: drafts[number].answers[-1].start] for number, _ in few])
        if any(wholes[number][:stop] != prompt for (number, stop), prompt in zip(few, prompts, strict=True)):
            self.splits_at_specials = False
            starts = [None] * len(starts)
        # The other answers are located by encoding the text before each of them.
        unknown = [draft for draft, found in zip(drafts, starts, strict=True) if found is None]
        befores = iter(self.encoder.ids([draft.whole[: answer.start] for draft in unknown for answer in draft.answers]))
        for example, draft, ids, places, found in zip(examples, drafts, wholes, specials, starts, strict=True):
            notes = list(draft.notes)
            if found is None:
                before = [next(befores) for _ in draft.answers]
                found = [len(prompt) for prompt in before]
                if any(ids[: len(prompt)] != prompt for prompt in before):
                    # A token would span the beginning of an answer: encode the text in pieces, with a token boundary
                    # before each answer, as in generation.
                    cuts = [0, *(answer.start for answer in draft.answers), len(draft.whole)]
                    pieces = self.encoder.ids([draft.whole[a:b] for a, b in pairwise(cuts)])
                    ids, found = list(chain.from_iterable(pieces)), list(accumulate(map(len, pieces[:-1])))
                    places = [number for number, id_ in enumerate(ids) if id_ in self.special.ids]
                    notes.append(problems.TOKEN_ACROSS_BOUNDARY)
            spans = _spans(draft, ids, found, places, self.encoder)
            yield self._row(example, ids, spans, ids[: found[-1]], draft.target, notes)

    def _conversation_ids(self, drafts: Sequence[Rendered]) -> list[list[int]]:
        """Token ids of each conversation. A shared beginning is encoded once."""
        firsts = {draft.head: draft for draft in reversed(drafts) if draft.head and draft.head not in self._heads}
        for head, draft in firsts.items() if self.splits_at_specials else ():
            # The ids of a conversation have to equal the ids of its head followed by the ids of the rest.
            whole, self._heads[head], rest = self.encoder.ids([draft.whole, head, draft.whole[len(head) :]])
            if self._heads[head] + rest != whole:
                self.splits_at_specials = False
                break
        if not self.splits_at_specials:
            return self.encoder.ids([draft.whole for draft in drafts])
        rests = self.encoder.ids([draft.whole[len(draft.head) :] for draft in drafts])
        return [self._heads[draft.head] + ids if draft.head else ids for draft, ids in zip(drafts, rests, strict=True)]

    def _starts(self, draft: Rendered, ids: list[int], specials: list[int]) -> list[int] | None:
        """Index of each answer's first token, from the positions of special tokens; None if that is not possible."""
        if not self.splits_at_specials or len(specials) != draft.specials:
            return None
        answer_starts = []
        for answer in draft.answers:
            if answer.anchor not in self._anchors:  # a generation prompt from its last special token on
                tokens = self.encoder.ids([answer.anchor])[0] if answer.anchor else []
                self._anchors[answer.anchor] = tokens if tokens and tokens[0] in self.special.ids else None
            anchor = self._anchors[answer.anchor]
            if anchor is None:
                return None
            begin = specials[answer.before - 1]
            if ids[begin : begin + len(anchor)] != anchor:
                return None
            answer_starts.append(begin + len(anchor))
        return answer_starts

    def _row(
        self, example: Example, ids: list[int], spans: list[Span], prompt: list[int], target: str, notes: list[str]
    ) -> Row | Problem:
        """Set labels and truncate on the right; a Problem if no label is left."""
        labels = [IGNORE_INDEX] * len(ids)
        for span in spans:
            labels[span.start : span.stop] = ids[span.start : span.stop]
        if self.bos is not None and ids[:2] == [self.bos, self.bos]:
            notes.append(problems.DOUBLE_BOS)
        answer = sum(span.stop - span.start for span in spans)
        cut = len(ids) > self.max_length
        if cut and self.leave_out_long:
            return Problem(problems.TOO_LONG, f"{len(ids):,} tokens", example.where, len(ids))
        kept = labels[: self.max_length] if cut else labels
        if not answer or (cut and kept.count(IGNORE_INDEX) == len(kept)):
            if not answer:
                return Problem("data.empty_answer", "no token in the loss", example.where, len(ids))
            what = f"the answer starts at token {spans[0].start + 1:,}, after max_length"
            return Problem(problems.CUT_BEFORE_ANSWER, what, example.where, len(ids))
        weights: list[float] | None = None
        if any(span.weight != 1.0 for span in spans):
            weights = [0.0] * len(ids)
            for span in spans:
                weights[span.start : span.stop] = [span.weight] * (span.stop - span.start)
            weights = weights[: self.max_length]
        shown = ids[: self.max_length] if cut else ids
        whole_notes = (*(note for note in example.notes if note not in notes), *notes)
        return Row(
            shown, kept, prompt, target, example.where, cut, whole_notes, len(ids), answer, weights, example.references,
            calls=any(example.conversation[number].get("tool_calls") for number in example.trained),
        )  # fmt: skip


class Encoder:
    """Encodes with the tokenizer's Rust backend if it gives the same ids as the tokenizer, else with the tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._checked: set[bool] = set()

    def ids(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Token ids of each text; `special` adds the tokens that the tokenizer puts around a text."""
        if not texts:
            return []
        if special not in self._checked:
            self._checked.add(special)
            few = list(texts[:_CHECKED])
            has_fast = hasattr(self._backend, "encode_batch_fast")
            if not has_fast or self._fast(few, special) != self._slow(few, special):
                self._backend = None
        if self._backend is None:
            return self._slow(list(texts), special)
        return self._fast(texts, special)

    def _fast(self, texts: Sequence[str], special: bool) -> list[list[int]]:
        self._backend.no_truncation()
        self._backend.no_padding()
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=special)
        return [encoding.ids for encoding in encoded]

    def _slow(self, texts: list[str], special: bool) -> list[list[int]]:
        return [list(ids) for ids in self.tokenizer(texts, add_special_tokens=special, **_OPTIONS)["input_ids"]]


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


def _unclosed(ids: list[int], eos: int | None) -> list[int]:
    """Ids without an end token that the tokenizer adds to every text: it belongs only after the answer."""
    return ids[:-1] if ids and ids[-1] == eos else ids


def token_texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text of each token. Joined, they equal `tokenizer.decode` of all tokens.

    A character that spans several tokens is the text of the token that completes it; the others have ''.
    """
    whole = _decode(ids, tokenizer)
    known: dict[int, str] = {}
    alone = [known.get(id_) or known.setdefault(id_, _decode([id_], tokenizer)) for id_ in ids]
    if "".join(alone) == whole and not any(_REPLACEMENT in text for text in known.values()):
        return alone
    ends = _ends(ids, whole, tokenizer)
    return [whole[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def texts_between(ids: Sequence[int], start: int, stop: int, tokenizer: Any) -> list[str]:
    """The texts of the tokens in [start, stop), decoded only with their neighbors."""
    begin = max(0, start - _AROUND)
    texts = token_texts(ids[begin : stop + _AROUND], tokenizer)
    return texts[start - begin : stop - begin]


def _ends(ids: Sequence[int], whole: str, tokenizer: Any) -> list[int]:
    """For each token, the number of characters of `whole` that are determined by the tokens up to it.

    The tokens up to `clean` decode exactly to the first characters of `whole`. Following tokens are decoded together
    with those from `context`, because a decoder may treat the first token of a text differently.
    """
    ends: list[int] = []
    context = clean = done = 0
    before = ""
    for number in range(len(ids)):
        if number - context > _WINDOW:
            ends.append(ends[-1])
            continue
        text = _decode(ids[context : number + 1], tokenizer)[len(before) :]
        same = shared_length(text, whole[done : done + len(text)])
        ends.append(max(done + same, ends[-1] if ends else 0))
        if text and same == len(text) and not text.endswith(_REPLACEMENT):
            context, clean, done = clean, number + 1, done + same
            before = _decode(ids[context:clean], tokenizer)
    if ends:
        ends[-1] = len(whole)
    return ends


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
