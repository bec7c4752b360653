"""Answer a run's test rows with a GGUF file in llama.cpp, on the token ids of training."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from transformers import PreTrainedTokenizerBase

from engine.config.metric_specs import metric_spec
from engine.config.schema import Evaluation
from engine.data.items import EvaluationItem, all_rows
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.generate import end_tokens
from engine.evaluation.metrics import Choices, best_score
from engine.evaluation.predictions import RowLoss, ScoredItem
from engine.export.llama_cpp import LlamaCpp
from engine.export.scored_rows import ScoredRows
from engine.runs.run.exports import Defect
from engine.training.batches import loss_weight, target_weights, targets_of

FILE = "model.gguf"


def open_gguf(folder: Path, scored: ScoredRows, evaluation: Evaluation) -> LlamaCpp:
    """Load the file with room for the longest row and the longest answer."""
    rows = all_rows(scored.items) or [scored.rows.train[0]]
    longest = max(max(len(row.input_ids), len(row.prompt) + evaluation.max_new_tokens) for row in rows)
    return LlamaCpp(folder / FILE, longest + 8)


def row_logits(model: LlamaCpp, row: Row) -> torch.Tensor:
    """(K, V): logits that predict the row's K tokens in the loss."""
    return model.logits(row.input_ids, [place for place, _ in _in_loss(row)])


def _in_loss(row: Row) -> Iterator[tuple[int, int]]:
    """(place whose logits predict it, token) of every token in the loss."""
    for place, target in enumerate(targets_of(row)):
        if target != IGNORE_INDEX:
            yield place, target


def defects(model: LlamaCpp, tokenizer: PreTrainedTokenizerBase, scored: ScoredRows) -> list[Defect]:
    """What llama.cpp does differently from training: prompt tokens, chat template, end tokens."""
    found = []
    different = [item.row.where for item in scored.items if not _same_tokens(model, tokenizer, item.row.prompt)]
    if different:
        text = f"llama.cpp gives other prompt tokens in {len(different)} of {len(scored.items)} test items"
        found.append(Defect("export.other_prompts", f"{text} (first: {different[0]})"))
    if model.chat_template() != (tokenizer.chat_template or ""):
        found.append(Defect("export.other_template", "the chat template in the file is not that of training"))
    lost = [token for token in end_tokens(tokenizer, None, scored.rows.train) if not model.ends_generation(token)]
    if lost:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(lost))))
        found.append(Defect("export.lost_end_token", f"llama.cpp does not stop at the end token {names}"))
    return found


def _same_tokens(model: LlamaCpp, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> bool:
    """Whether the prompt's text becomes its tokens. True also if the tokenizer itself reads that text otherwise."""
    text = tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    again = tokenizer(text, add_special_tokens=False)["input_ids"]
    return bool(list(again) != list(prompt) or model.tokenize(text) == list(prompt))


def answer(
    model: LlamaCpp,
    tokenizer: PreTrainedTokenizerBase,
    scored: ScoredRows,
    evaluation: Evaluation,
    progress: Any,
) -> tuple[list[ScoredItem], list[list[int]], float]:
    """(items, generated tokens of each answer, seconds of generation)."""
    losses = [_item_loss(model, item) for item in scored.items]
    metric = metric_spec(evaluation.metric)
    if not metric.needs_answers:
        return [ScoredItem.of(loss) for loss in losses], [], 0.0
    started, answers, outputs = time.monotonic(), [], []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ends = frozenset(token for token in special if model.ends_generation(token))
    choices = Choices.of(scored.rows.train) if metric.picks_from_choices else None
    for done, item in enumerate(scored.items, 1):
        if choices is not None:
            outputs.append(_likeliest(model, choices, item.row))
        else:
            answers.append(model.answer(item.row.prompt, ends, evaluation.max_new_tokens))
            outputs.append(tokenizer.decode(answers[-1], skip_special_tokens=True))
        progress("answering test rows", done, len(scored.items))
    items = [
        ScoredItem.of(loss, output, best_score(evaluation.metric, output, item.references, evaluation.reasoning_tags))
        for loss, output, item in zip(losses, outputs, scored.items, strict=True)
    ]
    return items, answers, time.monotonic() - started


def _likeliest(model: LlamaCpp, choices: Choices, row: Row) -> str:
    """The allowed answer with the highest log-likelihood, scored one by one."""

    def score(tokens: Sequence[int]) -> float:
        start = len(row.prompt) - 1
        logits = model.logits([*row.prompt, *tokens], range(start, start + len(tokens)))
        picked = torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens)[:, None])
        return float(picked.sum())

    best = max(range(len(choices.tokens)), key=lambda number: score(choices.tokens[number]))
    return choices.texts[best]


def _item_loss(model: LlamaCpp, item: EvaluationItem) -> RowLoss:
    losses = [_row_loss(model, row) for row in item.rows]
    return RowLoss(*(sum(part) / len(losses) for part in zip(*losses, strict=True)))


def _row_loss(model: LlamaCpp, row: Row) -> RowLoss:
    targets = torch.tensor([token for _, token in _in_loss(row)])
    losses = torch.nn.functional.cross_entropy(row_logits(model, row), targets, reduction="none").double()
    weights = [
        weight for weight, target in zip(target_weights(row), targets_of(row), strict=True) if target != IGNORE_INDEX
    ]
    if row.weights is not None:
        losses *= torch.tensor(weights)
    return RowLoss(float(losses.sum()), len(targets), loss_weight(row))


def tensor_types(folder: Path) -> dict[str, int]:
    """Number of tensors of each type in the file: `{"Q4_K": 24, "F32": 9}`."""
    return dict(Counter(tensor.tensor_type.name for tensor in GGUFReader(folder / FILE).tensors).most_common())
