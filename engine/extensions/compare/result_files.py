"""Read the scores by item that other tools leave behind, without those tools.

The formats are recognized by their content: `samples_*.jsonl` of lm-evaluation-harness (`--log_samples`), logs of
Inspect (`.eval`, a ZIP of JSON files, and `.json`), results of PEFT's method comparison (shares only), and any rows in
JSON, JSON Lines or CSV, whose columns of key and score are given or guessed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from engine.config.errors import UserError
from engine.config.files import MAX_ITEMS_BYTES, MAX_RECORD_BYTES, read_regular
from engine.config.metric_specs import metric_spec
from engine.config.text import listed, visible
from engine.runs.ladder.answers import text_hash
from engine.runs.run.predictions import recorded_lines
from engine.runs.run.run_dir import RunDir, finished_result

KEYS = (
    "item",
    "id",
    "key",
    "doc_id",
    "sample_id",
    "example_id",
    "question_id",
    "task_id",
    "index",
    "idx",
    "uid",
    "uuid",
)
SCORES = (
    *("score", "correct", "is_correct", "exact_match", "em", "acc", "accuracy", "passed", "pass", "success"),
    *("f1", "reward", "value", "loss", "nll"),
)
"""Columns that are taken as key and score where none is given: the first that a file has, in any case."""
WORDS = {
    **dict.fromkeys(("c", "correct", "true", "yes", "pass", "passed"), 1.0),
    **dict.fromkeys(("i", "n", "incorrect", "false", "no", "fail", "failed"), 0.0),
    **dict.fromkeys(("p", "partial"), 0.5),
}
"""Words that are scores; the letters are Inspect's: correct, incorrect, no answer, partial."""
LOWER_IS_BETTER = {
    *("nll", "perplexity", "ppl", "word_perplexity", "byte_perplexity", "bits_per_byte"),
    *("wer", "cer", "ter", "brier_score", "mae", "mse", "rmse"),
}
GSM8K_TEST_ITEMS = 1319
"""PEFT's results have the share of correct answers, not the number of items: all of GSM8K's test split."""
UNREADABLE = "compare.unreadable"


class Fields(NamedTuple):
    """What `--key`, `--score` and `--group` name; None to guess, or for no groups."""

    key: str | None = None
    score: str | None = None
    group: str | None = None


@dataclass
class ItemResult:
    """The scores of one file or run, by the key of the item."""

    location: str
    name: str
    """Of the model, as the file says it."""
    format: str
    metric: str
    fields: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    """Items without a score are left out. Summed losses where `weights` are given."""
    weights: dict[str, float] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    """Hash of what the item is, where the format has it: the same key of the same format must be the same item."""
    share: tuple[float, int] | None = None
    """Of a file without items: the share of correct answers, and their number."""

    def add(self, key: Any, score: Any, where: str, content: Any = None, group: Any = None) -> None:
        """Add the item with this key. Raises UserError for a key that is repeated, and for a score that is none."""
        text = "" if key is None else str(key)
        if not text or isinstance(key, dict | list):
            problem, hint = f"no item key ({self.fields})", "name its column with --key"
            raise UserError(problem, where, hint, "compare.no_key")
        if text in self.contents or text in self.scores:
            hint = "name a column that is different for each item with --key"
            raise UserError(f"the item key {visible(text, 60)!r} is repeated", where, hint, "compare.repeated_key")
        self.contents[text] = "" if content is None else text_hash(str(content))
        if group is not None:
            self.groups[text] = str(group)
        value = _finite(score, where)
        if not math.isnan(value):
            self.scores[text] = value


def _finite(score: Any, where: str) -> float:
    """A score as a number, NaN for none. Raises UserError for what is no number, and for an infinite one."""
    value = number(score)
    if value is None or math.isinf(value):
        problem = f"the score is not a number: {visible(json.dumps(score, default=str), 60)}"
        hint = "name the column of a number, or of true and false, with --score"
        raise UserError(problem, where, hint, "compare.no_number")
    return value


def number(value: Any) -> float | None:
    """A score as a number: NaN for one that is missing, None for what is no score."""
    if value is None or value == "":
        return math.nan
    if isinstance(value, str):
        word = value.strip().lower()
        try:
            return WORDS[word] if word in WORDS else float(word)
        except ValueError:
            return None
    return float(value) if isinstance(value, bool | int | float) else None


def read_run(run: RunDir, fields: Fields) -> ItemResult:
    """The test items of a finished run, by number, in their groups. Raises UserError for one without this score."""
    result = finished_result(run, "compare.not_finished")
    metric = fields.score or (result.after.metric if result.after else result.metric)
    read = ItemResult(run.name, run.name, "run", metric, f"test items, {metric}")
    for line in recorded_lines(run.predictions_file):
        if (answer := line.tuned) is None:
            continue
        key, is_loss = str(line.item), metric_spec(metric).is_loss
        if not is_loss and metric not in (answer.scores or {}):
            known = listed([*(answer.scores or {}), "loss"], "or")
            raise UserError(f"the answers were not scored with {metric}", run.name, f"use {known}", "compare.no_score")
        value = answer.nll if is_loss else (answer.scores or {})[metric]
        read.add(key, value, run.name, f"{line.prompt}\n{line.target}", line.group or None)
        if is_loss:
            read.weights[key] = answer.loss_weight
    if not read.scores:
        hint = "repeat it with --set evaluation.when=both and a test split"
        raise UserError("the run has no scores of test items", run.name, hint, "compare.no_items")
    return read


def read_file(path: Path, fields: Fields) -> ItemResult:
    """The scores in a file. Raises UserError for one that cannot be read or has no scores by item."""
    try:
        content = read_regular(path, MAX_ITEMS_BYTES, follow=True)
        if content.startswith(b"PK\x03\x04"):
            return _inspect_log(path, _inspect_archive(content, bool(fields.group)), fields)
        return _read_text(path, content.decode("utf-8-sig"), fields)
    except zipfile.BadZipFile as error:
        raise UserError(f"damaged archive ({error})", str(path), "copy the log again", UNREADABLE) from error
    except NotImplementedError as error:  # a method of compression that Python does not have
        hint = "`inspect log convert FILE --to json` writes it as JSON"
        raise UserError(f"cannot decompress the log ({error})", str(path), hint, UNREADABLE) from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        hint = "name a run, or a file in JSON, JSON Lines or CSV in UTF-8"
        reason = "nested too deeply" if isinstance(error, RecursionError) else visible(str(error), 120)
        raise UserError(f"cannot read the results ({reason})", str(path), hint, UNREADABLE) from error


def _read_text(path: Path, text: str, fields: Fields) -> ItemResult:
    if not text.lstrip().startswith(("{", "[")):
        return _rows(path, "CSV", _csv_rows(path, text), fields)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if value is None or (isinstance(value, dict) and _is_lm_eval(value)):
        rows = [(f"{path} line {place}", line) for place, line in enumerate(text.splitlines(), 1) if line.strip()]
        samples = [(where, _load_line(where, line)) for where, line in rows]
        if all(isinstance(row, dict) and _is_lm_eval(row) for _, row in samples):
            return _lm_eval(path, samples, fields)
        return _rows(path, "JSON Lines", samples, fields)
    if isinstance(value, list):
        return _rows(path, "JSON", [(f"{path} row {place}", row) for place, row in enumerate(value, 1)], fields)
    if isinstance(value.get("eval"), dict):
        return _inspect_log(path, value, fields)
    if "train_info" in value:
        return _peft_result(path, value)
    if "configs" in value and "results" in value:
        hint = "run it with --log_samples, and name one of its samples_*.jsonl"
        raise UserError("results of lm-evaluation-harness without items", str(path), hint, "compare.no_items")
    return _rows(path, "JSON Lines", [(f"{path} line 1", value)], fields)


def _is_lm_eval(row: dict[str, Any]) -> bool:
    return {"doc_id", "metrics", "filter"} <= row.keys()


def _load_line(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"invalid JSON ({error.msg})", where, "give one JSON object per line", UNREADABLE) from error


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for row in reader:
        yield f"{path} line {reader.line_num}", row


def _rows(path: Path, form: str, rows: Iterable[tuple[str, Any]], fields: Fields) -> ItemResult:
    """Rows of any tool: columns as given, else the first of KEYS and SCORES that the first row has."""
    every = list(rows)
    if not every or not all(isinstance(row, dict) for _, row in every):
        raise UserError("no rows with named columns", str(path), "give a table with a header", "compare.no_items")
    columns = {str(name).lower(): str(name) for name in every[0][1]}
    key, score = (
        given or next((columns[name] for name in names if name in columns), None)
        for given, names in ((fields.key, KEYS), (fields.score, SCORES))
    )
    if key is None or score is None:
        missing, option = ("item key", "--key") if key is None else ("score", "--score")
        known = listed([visible(name, 40) for name in columns.values()][:12])
        problem = f"no column is recognized as the {missing}: {known}"
        raise UserError(problem, str(path), f"name it with {option} COLUMN", "compare.unknown_column")
    read = ItemResult(str(path), path.stem, form, score, f"key {key}, score {score}")
    for where, row in every:
        read.add(_value(row, key, where), _value(row, score, where), where, None, _group(row, fields.group, where))
    return read


class LmEvalSample(Struct):
    """A line of `samples_*.jsonl`: the scores of a document with a filter, under the names in `metrics`."""

    metrics: list[str]
    filter: str
    doc: Any = None
    doc_hash: str = ""


def _lm_eval(path: Path, rows: Sequence[tuple[str, dict[str, Any]]], fields: Fields) -> ItemResult:
    """Samples of lm-evaluation-harness, whose folder has the name of the model."""
    samples = [(where, row, msgspec.convert(row, LmEvalSample)) for where, row in rows]
    metric, _, chosen = (fields.score or "").partition(",")
    metric, chosen = metric or next(iter(samples[0][2].metrics), ""), chosen or samples[0][2].filter
    offered = listed(sorted({f"{name},{sample.filter}" for _, _, sample in samples for name in sample.metrics}), "or")
    if not any(metric in sample.metrics and sample.filter == chosen for _, _, sample in samples):
        raise UserError(f"no score {metric},{chosen}", str(path), f"use --score {offered}", "compare.no_score")
    key = fields.key or "doc_id"
    title = metric if chosen == "none" else f"{metric},{chosen}"
    form = "lm-evaluation-harness"
    read = ItemResult(str(path), path.resolve().parent.name, form, title, f"key {key}, score {title}")
    for where, row, sample in samples:
        if sample.filter == chosen:
            document = sample.doc if isinstance(sample.doc, dict) else {}
            group = _group({**row, **document}, fields.group, where)
            read.add(_value(row, key, where), row.get(metric), where, sample.doc_hash, group)
    return read


class InspectScore(Struct):
    """A score of a sample."""

    value: Any = None


class InspectSample(Struct):
    """A sample of a log, or its summary."""

    id: int | str
    scores: dict[str, InspectScore] | None = None
    target: Any = None
    metadata: dict[str, Any] | None = None


class InspectSpec(Struct):
    """What was evaluated."""

    model: str = ""


class InspectLog(Struct):
    """A log of Inspect."""

    eval: InspectSpec
    samples: list[InspectSample] | None = None


def _inspect_archive(content: bytes, with_metadata: bool) -> dict[str, Any]:
    """The log in an `.eval` file, with summaries of the samples where they are enough: they are smaller.

    Summaries of early versions have no metadata. A log that was not finished has its start in the journal.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        if sum(entry.file_size for entry in archive.infolist()) > MAX_ITEMS_BYTES:
            raise ValueError(f"larger than {MAX_ITEMS_BYTES:,} bytes when it is unpacked")

        def load(name: str) -> Any:
            if archive.getinfo(name).file_size > MAX_RECORD_BYTES:
                raise ValueError(f"{name} is larger than {MAX_RECORD_BYTES:,} bytes")
            return json.loads(archive.read(name))

        start = next((name for name in ("header.json", "_journal/start.json", "start.json") if name in names), None)
        if start is None:
            raise ValueError("a ZIP file that is not a log of Inspect")
        summaries = next((name for name in ("summaries.json", "summary.json") if name in names), None)
        if summaries and not with_metadata:
            samples = load(summaries)
        else:
            samples = [load(name) for name in names if name.startswith("samples/") and name.endswith(".json")]
        return {**load(start), "samples": samples}


def _inspect_log(path: Path, content: dict[str, Any], fields: Fields) -> ItemResult:
    """A log of Inspect, whose samples have ids; the score of a sample is the mean of its epochs."""
    log = msgspec.convert(content, InspectLog)
    epochs: dict[str, list[InspectSample]] = {}
    for sample in log.samples or []:
        epochs.setdefault(str(sample.id), []).append(sample)
    scorers = list(dict.fromkeys(name for every in epochs.values() for sample in every for name in sample.scores or {}))
    scorer, _, part = (fields.score or next(iter(scorers), "")).partition(".")
    if scorer not in scorers:
        problem = f"no score {scorer}" if fields.score else "no sample has a score"
        hint = f"use --score {listed(scorers, 'or')}" if scorers else "score the log with `inspect score`"
        raise UserError(problem, str(path), hint, "compare.no_score")
    metric = f"{scorer}.{part}" if part else scorer
    read = ItemResult(str(path), log.eval.model or path.stem, "Inspect", metric, f"key id, score {metric}")
    for key, every in epochs.items():
        where, values = f"{path} sample {key}", list[float]()
        for sample in every:
            value = sample.scores[scorer].value if sample.scores and scorer in sample.scores else None
            values.append(_finite(_value(value, part, where) if part else value, where))
        known = [value for value in values if not math.isnan(value)]
        group = _group(every[0].metadata or {}, fields.group, where)
        read.add(key, sum(known) / len(known) if known else None, where, every[0].target, group)
    return read


class PeftTraining(Struct):
    """What PEFT's comparison measured."""

    metrics: list[dict[str, Any]]


class PeftResult(Struct):
    """A result of PEFT's method comparison."""

    train_info: PeftTraining
    run_info: dict[str, Any] = {}


def _peft_result(path: Path, content: dict[str, Any]) -> ItemResult:
    """A result of PEFT's MetaMathQA comparison: the share of GSM8K's test items that are answered correctly."""
    result = msgspec.convert(content, PeftResult)
    shares = [entry["test accuracy"] for entry in result.train_info.metrics if "test accuracy" in entry]
    share = number(shares[-1]) if shares else None
    correct = math.nan if share is None else share * GSM8K_TEST_ITEMS
    if share is None or not 0 <= share <= 1 or abs(correct - round(correct)) > 1e-3:
        problem = f"`test accuracy` is not a share of GSM8K's {GSM8K_TEST_ITEMS:,} test items"
        raise UserError(problem, str(path), "give a file of PEFT's MetaMathQA results", "compare.no_items")
    name = str(result.run_info.get("experiment_name") or path.stem)
    counted = f"share of {GSM8K_TEST_ITEMS:,} test items"
    read = ItemResult(str(path), name, "PEFT MetaMathQA", "test accuracy", counted)
    read.share = share, GSM8K_TEST_ITEMS
    return read


def _value(row: Any, column: str, where: str) -> Any:
    """The value of a column, or of a path through objects: `scores.match.value`. Raises UserError without one."""
    value = row
    for name in [column] if column in row else column.split("."):
        if not isinstance(value, dict) or name not in value:
            problem, known = f"no column {visible(column, 60)}", listed([visible(str(name), 40) for name in row][:12])
            raise UserError(problem, where, f"it has {known}", "compare.unknown_column")
        value = value[name]
    return value


def _group(row: Any, column: str | None, where: str) -> Any:
    return None if column is None else _value(row, column, where)
