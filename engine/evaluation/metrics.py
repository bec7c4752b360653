"""Metrics: score an output of the model against its references (accepted answers). All except `loss` are from 0 to 1.

Reasoning before an answer (between the tags `evaluation.reasoning_tags`) is not scored, and an answer that ends within
its reasoning is wrong. With several references the best one counts:

- `exact_match`: 1 if the answer equals any reference;
- `choice`: 1 if the most likely allowed answer (`Choices`) equals any reference;
- `contains`: 1 if the answer contains any reference;
- `rouge`: the highest ROUGE-L F1 over the references, like rouge-score's `score_multi`;
- `number`, `number_comma`: 1 if the final number equals that of any reference (`numbers.py`);
- `boxed`: 1 if the content of the last `\\boxed{}` is the same expression or number as that of any reference;
- `set`: the highest F1 over the labels of a list; exact match is for that reference;
- `json`: the highest share of correct fields over the references; exact match and validity are for that reference;
- `tool_calls` (`tool_calls.py`): 1 if the answer makes the calls of any reference;
- `open`: the loss as below; in addition the highest sum of chrF and ROUGE-L over the references;
- `loss` (`score.item_losses`): the mean over the references of summed loss and of tokens, so that an item with many
  references has the same weight as one with a single reference of that length.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.reasoning import REASONING_TAGS, is_unfinished, without_reasoning
from engine.data.items import EvaluationItem
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.numbers import COMMA, box_of, is_number, number_of

UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "THAI", "LAO", "MYANMAR", "KHMER", "TIBETAN"}
"""Scripts without spaces between words, by the first word of their characters' Unicode names."""


def words(text: str) -> list[str]:
    """Split text into lower-case runs of letters, marks and digits; single letters in scripts without spaces.

    On English text equal to rouge-score's tokenizer without stemming, which keeps only a–z and 0–9: with it every text
    in Russian, Greek or Chinese would score 0.
    """
    parts: list[str] = []
    joins = False  # whether the next letter continues the last word
    for letter in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(letter)[0]
        if kind not in "LMN":
            joins = False
            continue
        unspaced = _script(letter) in UNSPACED
        if parts and (kind == "M" or (joins and not unspaced)):
            parts[-1] += letter
        else:
            parts.append(letter)
        joins = not unspaced
    return parts


def chrf(output: str, target: str) -> float:
    """chrF2 by sacrebleu, the reference implementation (Popović 2015, aclanthology.org/W15-3049); 0 to 1.

    F-score of character 1- to 6-grams, with twice the weight on recall; for any language and script.
    """
    return float(_chrf_scorer().sentence_score(output, [target]).score) / 100


def rouge_l(output: str, target: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, aclanthology.org/W04-1013) without stemming; 0 to 1."""
    return float(_scorer().score(target, output)["rougeL"].fmeasure)


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0] if letter > "\x7f" else "LATIN"


@cache
def _chrf_scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF  # takes 0.15 s to import, and only this metric needs it

    return CHRF()


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # takes 0.2 s to import, and only this metric needs it

    return RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=words))


Scores = dict[str, float]
"""The metric's score under its name, and additional scores."""


def exact_match(output: str, target: str) -> Scores:
    """1 if the answers are equal up to white space."""
    return {"exact_match": float(normalized_space(output) == normalized_space(target))}


def choice(output: str, target: str) -> Scores:
    """1 if the most likely allowed answer (`choices`) is the target."""
    return {"choice": exact_match(output, target)["exact_match"]}


def contains(output: str, target: str) -> Scores:
    """1 if the answer contains the target, ignoring case; an empty target matches only an empty answer."""
    expected, given = normalized_space(target).lower(), normalized_space(output).lower()
    return {"contains": float(expected in given if expected else not given)}


def rouge(output: str, target: str) -> Scores:
    """ROUGE-L F1; for a target without words (only punctuation), exact match."""
    if not words(target):
        return {"rouge": exact_match(output, target)["exact_match"]}
    return {"rouge": rouge_l(output, target)}


def open_answer(output: str, target: str) -> Scores:
    """What can be computed of an answer without a single right text: its overlap with the reference.

    The score of the metric `open` is the held-out loss. Overlap of characters (chrF) and words (ROUGE-L) says how
    similar the answers are to the references, not how good they are.
    """
    return {"chrf": chrf(output, target), **rouge(output, target)}


def number(output: str, target: str) -> Scores:
    """1 if the final numbers are equal, with a decimal point: see `number_of`."""
    expected = number_of(target)
    return {"number": float(expected is not None and expected == number_of(output))}


def number_comma(output: str, target: str) -> Scores:
    """1 if the final numbers are equal, with a decimal comma."""
    expected = number_of(target, COMMA)
    return {"number_comma": float(expected is not None and expected == number_of(output, COMMA))}


def json_fields(output: str, target: str) -> Scores:
    """`json`: share of the target's fields that are correct; `exact_match`: all are correct and none is added.

    An answer that is not a JSON object scores 0 in both; `valid` is whether it is one.
    """
    expected, given = _object(target), _object(output)
    if expected is None:
        return exact_match(output, target) | {"json": exact_match(output, target)["exact_match"], "valid": 0.0}
    if given is None:
        return {"json": 0.0, "exact_match": 0.0, "valid": 0.0}
    correct = sum(1 for key, value in expected.items() if key in given and _equal(given[key], value))
    extra = len(set(given) - set(expected))
    share = correct / max(1, len(expected) + extra)
    return {"json": share, "exact_match": float(correct == len(expected) and not extra), "valid": 1.0}


_NO_MEANING = re.compile(r"\\left|\\right|\\[,;!: ]|\\displaystyle|\\(?:text|mathrm|textbf)(?=\{)|\$|\s|\.$")
"""What does not change the meaning of an expression in LaTeX."""


def boxed(output: str, target: str) -> Scores:
    """1 if the last \\boxed{} has the same expression, up to white space and sizes, or the same number."""
    given, expected = box_of(output), box_of(target)
    if expected is None:
        return {"boxed": exact_match(output, target)["exact_match"]}
    if given is None:
        return {"boxed": 0.0}
    one, other = (
        _NO_MEANING.sub("", text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac"))
        for text in (given, expected)
    )
    same = one == other or (is_number(one) and is_number(other) and number_of(one) == number_of(other))
    return {"boxed": float(same)}


def has_box(output: str) -> bool:
    """Whether the answer has a complete \\boxed{}."""
    return box_of(output) is not None


def label_set(output: str, target: str) -> Scores:
    """`set`: F1 of the labels, each counted once, regardless of order and case; 1 if both have none."""
    expected, given = _labels(target), _labels(output)
    if expected is None:
        return {"set": exact_match(output, target)["exact_match"], **exact_match(output, target)}
    if given is None:
        return {"set": 0.0, "exact_match": 0.0}
    total = len(expected) + len(given)
    score = 2 * len(expected & given) / total if total else 1.0
    return {"set": score, "exact_match": float(expected == given)}


def is_list(output: str) -> bool:
    """Whether the answer is a JSON list of texts or numbers."""
    return _labels(output) is not None


def _labels(text: str) -> frozenset[str] | None:
    """The labels of a JSON list, in lower case; None for another text."""
    value = _json(text)
    if not isinstance(value, list) or any(isinstance(item, list | dict) for item in value):
        return None
    return frozenset(normalized_space(str(item)).casefold() for item in value)


def scoring_function(metric: str) -> Callable[[str, str], Scores]:
    """The function of a metric that scores an answer against one reference."""
    module, _, name = metric_spec(metric).scoring.partition(":")
    function: Callable[[str, str], Scores] = getattr(import_module(module), name)
    return function


def best_score(metric: str, output: str, references: Sequence[str], tags: Sequence[str] = REASONING_TAGS) -> Scores:
    """The scores against the best reference, without reasoning before the answer; ties are broken by the additional
    scores, then by order. An answer that ends within its reasoning scores 0, or as an empty one if 0 is the best score.
    """
    unfinished = is_unfinished(output, tags, references)
    score, answer = scoring_function(metric), "" if unfinished else without_reasoning(output, tags)
    by_reference = [score(answer, without_reasoning(reference, tags)) for reference in references]
    if unfinished:
        by_reference = [
            {name: 0.0 if metric_spec(name).is_share else value for name, value in scores.items()}
            for scores in by_reference
        ]
    sign = -1 if metric_spec(metric).lower_is_better else 1
    return max(by_reference, key=lambda scores: (sign * scores.get(metric, 0.0), sum(scores.values())))


def is_formatted(metric: str, output: str, tags: Sequence[str] = REASONING_TAGS) -> bool | None:
    """Whether the answer has the format without which it scores 0; None if the metric needs none."""
    if not (name := metric_spec(metric).format_check):
        return None
    module, _, function = name.partition(":")
    return bool(getattr(import_module(module), function)(without_reasoning(output, tags)))


def is_object(output: str) -> bool:
    """Whether the answer is a JSON object."""
    return _object(output) is not None


def has_number(output: str) -> bool:
    """Whether the answer has a final number."""
    return number_of(output) is not None


def has_number_comma(output: str) -> bool:
    """Whether the answer has a final number with a decimal comma."""
    return number_of(output, COMMA) is not None


def normalized_space(text: str) -> str:
    """Collapse white space: words separated by single spaces."""
    return " ".join(text.split())


def _object(text: str) -> dict[str, Any] | None:
    value = _json(text)
    return value if isinstance(value, dict) else None


_FENCE = re.compile(r"```(?:json\w*)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)
"""A block of code in Markdown."""


def _json(text: str) -> Any:
    """The JSON value that a text is, alone or in a single block of code; None for another text."""
    fenced = _FENCE.fullmatch(text.strip())
    try:
        return json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None


def _equal(given: Any, expected: Any) -> bool:
    """JSON equality at every depth: true differs from 1, and 1 equals 1.0."""
    if isinstance(expected, dict) and isinstance(given, dict):
        return given.keys() == expected.keys() and all(_equal(given[key], expected[key]) for key in expected)
    if isinstance(expected, list) and isinstance(given, list):
        return len(given) == len(expected) and all(map(_equal, given, expected))
    return isinstance(given, bool) == isinstance(expected, bool) and bool(given == expected)


MAX_CHOICES = 1000
"""Maximum number of distinct answers; with more, the task is not multiple choice."""
METRIC = "evaluation.metric"


@dataclass(frozen=True)
class Choices:
    """Distinct answers in order of first occurrence in the training rows."""

    tokens: list[list[int]]
    """Trained tokens of each answer, including its end token."""
    texts: list[str]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Choices:
        """Collect the last answer of every row that `max_length` did not truncate.

        Raises UserError for more than MAX_CHOICES or fewer than two distinct answers.
        """
        choices: dict[tuple[int, ...], str] = {}
        for row in rows:
            if not row.cut:
                answer = tuple(label for label in row.labels[len(row.prompt) :] if label != IGNORE_INDEX)
                choices.setdefault(answer, row.target)
            if len(choices) > MAX_CHOICES:
                problem = (
                    f"too many distinct answers for the metric choice: more than {MAX_CHOICES:,} in the training rows"
                )
                raise UserError(problem, METRIC, "use exact_match, contains or rouge", code="data.too_many_choices")
        if len(choices) < 2:
            problem = f"the metric choice needs at least 2 distinct answers; the training rows have {len(choices)}"
            hint = "use another metric, or a larger `--set train.max_length=N` if it truncates the answers"
            raise UserError(problem, METRIC, hint, code="data.too_few_choices")
        return cls([list(tokens) for tokens in choices], list(choices.values()))

    def unknown(self, items: Sequence[EvaluationItem]) -> list[EvaluationItem]:
        """Items without a reference among the choices: they cannot be answered correctly."""
        known = {normalized_space(text) for text in self.texts}
        return [item for item in items if not known & {normalized_space(text) for text in item.references}]

    def shared(self) -> np.ndarray:
        """(C, C): length of the common prefix of two choices in tokens; on the diagonal their lengths."""
        lengths = [len(tokens) for tokens in self.tokens]
        padded = np.full((len(lengths), max(lengths)), -1)
        for number, tokens in enumerate(self.tokens):
            padded[number, : len(tokens)] = tokens
        common = np.zeros((len(lengths), len(lengths)), dtype=int)
        equal = np.ones_like(common, dtype=bool)
        for column in padded.T:
            equal &= (column[:, None] == column) & (column != -1)
            common += equal
        return common


class RowLoss(NamedTuple):
    """Loss of one row."""

    nll: float
    """Weighted sum of the negative log-likelihood over the tokens in the loss, in nats."""
    tokens: float
    """Tokens in the loss."""
    weight: float
    """Sum of their weights; equals `tokens` if the row has no weights."""


def mean_loss(losses: Sequence[RowLoss]) -> float:
    """sum(weight * nll) / sum(weight) over the tokens in the loss, in nats/token, as in training."""
    return sum(loss.nll for loss in losses) / (sum(loss.weight for loss in losses) or 1)
