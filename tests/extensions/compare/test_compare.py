"""`ftbench compare`: files of other tools in their own formats, against hand calculations, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import random
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import ftbench as ftbench_process
from forked import ftbench
from made_ladder import made_ladder

from engine.config.errors import UserError
from engine.extensions.compare.comparing import compare, compare_results, share_difference, wilson
from engine.extensions.compare.comparison import ResultComparison
from engine.extensions.compare.result_files import Fields, ItemResult, read_file
from engine.ladder.statistics import MeanSamples, item_scores
from engine.runs.run.result import student_quantile

Scores = Mapping[str, Any]
ITEMS = [f"q{number}" for number in range(200)]


def scores(seed: int, chance: float = 0.5, keys: list[str] = ITEMS) -> dict[str, float]:
    """Scores of 0 and 1, which are mostly the same for every seed: items are hard or easy."""
    draw = random.Random(seed)
    return {key: float(random.Random(key).random() * 0.7 + draw.random() * 0.3 < chance) for key in keys}


def lm_eval(path: Path, values: Scores, name: str = "acc", filters: tuple[str, ...] = ("none",)) -> None:
    """`samples_*.jsonl`; with several filters, scores are those of the first and inverted for the others."""
    lines = []
    for place, given in enumerate(filters):
        for number, (key, value) in enumerate(values.items()):
            scored = value if place == 0 or not isinstance(value, float) else 1 - value
            lines.append(
                {
                    "doc_id": number,
                    "doc": {"question": key, "passage": number % 4},
                    "target": "4",
                    "arguments": {"gen_args_0": {"arg_0": key}},
                    "resps": [["4"]],
                    "filtered_resps": ["4"],
                    "filter": given,
                    "metrics": [name, "extra"],
                    "doc_hash": f"hash of {key}",
                    "prompt_hash": "p",
                    "target_hash": "t",
                    name: scored,
                    "extra": 0.25,
                }
            )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def samples(values: Scores, epochs: int = 1) -> list[dict[str, Any]]:
    letters = {1.0: "C", 0.0: "I", 0.5: "P"}
    return [
        {
            "id": key,
            "epoch": epoch,
            "input": f"What is {key}?",
            "target": "4",
            "scores": {
                "match": {"value": value if isinstance(value, dict) else letters.get(value, value), "answer": "4"}
            },
            "metadata": {"my_cluster": number % 4},
        }
        for number, (key, value) in enumerate(values.items())
        for epoch in range(1, epochs + 1)
    ]


def inspect_json(path: Path, values: Scores, epochs: int = 1) -> None:
    spec = {"task": "t", "model": f"mock/{path.stem}"}
    log = {"version": 2, "status": "success", "eval": spec, "plan": {}, "samples": samples(values, epochs)}
    path.write_text(json.dumps(log))


def inspect_eval(path: Path, values: Scores, summaries: bool = True) -> None:
    every = samples(values)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": {"model": path.stem}, "plan": {}}))
        for sample in every:
            archive.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
        if summaries:  # of a finished log
            archive.writestr("summaries.json", json.dumps(every))
            archive.writestr("header.json", json.dumps({"eval": {"model": path.stem}, "status": "success"}))


def json_lines(path: Path, values: Scores) -> None:
    path.write_text("\n".join(json.dumps({"id": key, "text": "x", "correct": bool(v)}) for key, v in values.items()))


def json_list(path: Path, values: Scores) -> None:
    path.write_text(json.dumps([{"Key": key, "Score": value} for key, value in values.items()], indent=1))


def table(path: Path, values: Scores, delimiter: str = ";") -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("item", "note", "passed"), *((key, "a\nb", bool(v)) for key, v in values.items())])


def peft(path: Path, share: float) -> None:
    metrics = [{"step": 250, "valid accuracy": 0.3}, {"step": 5000, "test accuracy": share}]
    path.write_text(json.dumps({"run_info": {"experiment_name": path.stem}, "train_info": {"metrics": metrics}}))


FORMATS: dict[str, tuple[str, Callable[[Path, Scores], None]]] = {
    "lm-eval": ("jsonl", lm_eval),
    "Inspect archive": ("eval", inspect_eval),
    "Inspect archive in progress": ("eval", lambda path, values: inspect_eval(path, values, summaries=False)),
    "Inspect JSON": ("json", inspect_json),
    "JSON Lines": ("jsonl", json_lines),
    "JSON": ("json", json_list),
    "CSV": ("csv", table),
    "tab-separated": ("tsv", lambda path, values: table(path, values, "\t")),
}


def compared(*results: tuple[str, Path], **given: Any) -> ResultComparison:
    """The comparison of these (name, file)."""
    fields = Fields(given.pop("key", None), given.pop("score", None), given.pop("group", None))
    read: dict[str, list[ItemResult]] = {}
    for name, path in results:
        read.setdefault(name, []).append(read_file(path, fields))
    return compare_results(read, given.pop("margin", 0.02), **given)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_gives_the_comparison_of_its_scores(form: str, tmp_path: Path) -> None:
    """That of the ladder's statistics, for which both are one model each."""
    suffix, write = FORMATS[form]
    a, b = scores(1, 0.5), scores(2, 0.62)
    files = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    for file, values in zip(files, (a, dict(reversed(b.items())) if form != "lm-eval" else b), strict=True):
        write(file, values)
    result = compared(("a", files[0]), ("b", files[1]))
    assert (result.items, result.units, result.paired, result.is_share) == (200, 200, True, True)
    (pair,) = result.comparisons
    arrays = {name: np.array([[own[key] for key in ITEMS]]) for name, own in (("a", a), ("b", b))}
    of_ladder = {name: item_scores(own, None, [""] * 200, untrained=True) for name, own in arrays.items()}
    (expected,) = MeanSamples(of_ladder, (0.0, 1.0)).differences([("b", "a")])
    assert (pair.difference.mean, pair.p_adjusted) == pytest.approx((expected.mean, expected.p_adjusted))
    assert (pair.difference.low, pair.difference.high) == pytest.approx((expected.low, expected.high))


def test_a_paired_difference_by_hand(tmp_path: Path) -> None:
    """Differences of 400 items, −1.5, −0.5, 0.5, 1.5 and 2.5 equally often: mean 0.5, variance 2, t(399) = 1.966."""
    a = {f"{number}": 10.0 + number % 7 for number in range(400)}
    b = {key: value + (number % 5) - 1.5 for number, (key, value) in enumerate(a.items())}
    for name, values in (("a", a), ("b", b)):
        (tmp_path / f"{name}.jsonl").write_text("".join(f'{{"id": {k}, "score": {v}}}\n' for k, v in values.items()))
    result = compared(("a", tmp_path / "a.jsonl"), ("b", tmp_path / "b.jsonl"))
    (pair,) = result.comparisons
    reach = student_quantile(399) * math.sqrt(2 / 399)
    assert pair.difference.mean == pytest.approx(0.5) and not result.is_share and pair.finding == "better"
    assert pair.difference.low == pytest.approx(0.5 - reach, abs=0.02 * reach)
    assert pair.difference.high == pytest.approx(0.5 + reach, abs=0.02 * reach)


@pytest.mark.parametrize("write", [inspect_json, inspect_eval])
def test_standard_errors_are_those_of_inspect(write: Callable[[Path, Scores], None], tmp_path: Path) -> None:
    """Its tests `test_stderr`, 0.957 of 0 to 9, and `test_clustered_stderr`, 0.645 of 0 to 19 in 4 clusters."""
    for count, group, expected in ((10, None, 0.957), (20, "my_cluster", 0.645)):
        values = {f"{number}": float(number) for number in range(count)}
        values |= {"1": 1, "0": 0} if count else {}
        for name in ("a", "b"):
            write(tmp_path / f"{name}.log", {key: value + 0.0 for key, value in values.items()})
        result = compared(("a", tmp_path / "a.log"), ("b", tmp_path / "b.log"), group=group)
        assert [round(own.standard_error, 3) for own in result.results] == [expected] * 2
        assert result.units == (4 if group else count)


def test_two_shares_by_newcombe_and_peft_results(tmp_path: Path) -> None:
    """Newcombe 1998, Statistics in Medicine 17, 873, example (a): 56 of 70 and 48 of 80, method 10: 0.0524 to 0.3339.
    PEFT's LoRA r32 and full: 631 and 622 of 1,319.
    """
    example = share_difference(("a", 56 / 70, 70), ("b", 48 / 80, 80), 1)
    assert (example.low, example.high) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert wilson(56 / 70, 70) == pytest.approx((0.6920, 0.8769), abs=1e-3)
    for pairs in (1, 3):  # p is below 5% exactly where the interval excludes 0
        for correct in range(20, 80):
            difference = share_difference(("a", correct / 100, 100), ("b", 0.5, 100), pairs)
            assert (difference.p_adjusted < 0.05) == (difference.low > 0 or difference.high < 0)
    for name, correct in (("lora", 631), ("full", 622)):
        peft(tmp_path / f"{name}.json", correct / 1319)
    result = compared(("full", tmp_path / "full.json"), ("lora", tmp_path / "lora.json"))
    (pair,) = result.comparisons
    assert not result.paired and result.items == 1319 and pair.finding == "undecided"
    assert pair.difference.mean == pytest.approx(9 / 1319)
    assert (pair.difference.low, pair.difference.high) == pytest.approx((-0.0312, 0.0448), abs=2e-4)
    assert pair.needed_items is not None and pair.needed_items > 1319


def test_several_files_of_one_name_are_seeds(tmp_path: Path) -> None:
    """Their spread widens the interval beyond that over items."""
    for seed in range(4):
        json_lines(tmp_path / f"lora{seed}.jsonl", scores(seed, 0.4 + 0.08 * seed))
    json_lines(tmp_path / "base.jsonl", scores(9, 0.3))
    base = ("base", tmp_path / "base.jsonl")
    one = compared(base, ("lora", tmp_path / "lora1.jsonl")).comparisons[0].difference
    several = compared(base, *(("lora", tmp_path / f"lora{seed}.jsonl") for seed in range(4)))
    lora, difference = several.results[1], several.comparisons[0].difference
    assert lora.by_seed == [pytest.approx(sum(scores(s, 0.4 + 0.08 * s).values()) / 200) for s in range(4)]
    assert None not in (one.low, one.high, difference.low, difference.high)
    assert difference.high - difference.low > 1.5 * (one.high - one.low)


def test_groups_are_the_units_in_every_format_that_has_columns(tmp_path: Path) -> None:
    """Two copies of each item say no more than one, if they are a group."""
    alone = {f"{number}": scores(1, 0.5)[key] for number, key in enumerate(ITEMS)}
    other = {key: value if number % 3 else 1 - value for number, (key, value) in enumerate(alone.items())}
    widths = {}
    for copies in (1, 2):
        for name, values in (("a", alone), ("b", other)):
            rows = [
                {"id": f"{key}/{copy}", "score": value, "about": {"text": key}}
                for key, value in values.items()
                for copy in range(copies)
            ]
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        pair = compared(("a", tmp_path / "a.jsonl"), ("b", tmp_path / "b.jsonl"), group="about.text").comparisons[0]
        assert pair.difference.low is not None and pair.difference.high is not None
        widths[copies] = pair.difference.high - pair.difference.low
    assert widths[2] == pytest.approx(widths[1], rel=0.02)


def test_filters_epochs_and_named_scores(tmp_path: Path) -> None:
    file = tmp_path / "samples_gsm8k.jsonl"
    lm_eval(file, scores(1), "exact_match", ("strict-match", "flexible-extract"))
    strict, flexible = read_file(file, Fields()), read_file(file, Fields(score="exact_match,flexible-extract"))
    assert strict.metric == "exact_match,strict-match" and flexible.scores["0"] == 1 - strict.scores["0"]
    assert read_file(file, Fields(score="extra")).scores["0"] == 0.25
    assert (strict.name, strict.format) == (tmp_path.name, "lm-evaluation-harness")
    log = tmp_path / "log.json"
    inspect_json(log, {"x": {"f1": 0.25, "em": 0}, "y": {"f1": 0.75, "em": 1}}, epochs=3)
    assert read_file(log, Fields(score="match.f1")).scores == {"x": 0.25, "y": 0.75}
    with pytest.raises(UserError, match="not a number"):
        read_file(log, Fields())


def test_items_without_a_score_are_counted_and_named(tmp_path: Path) -> None:
    """Missing, null, NaN, and a sample without a score alike."""
    full = scores(1)
    for name, rows in (
        ("a", [{"id": key, "score": value} for key, value in full.items()]),
        ("b", [{"id": key, "score": None if key == "q1" else v} for key, v in full.items() if key != "q0"]),
        ("c", [{"id": key, "score": math.nan if key == "q2" else value} for key, value in full.items()]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    result = compared(*((name, tmp_path / f"{name}.jsonl") for name in "abc"))
    assert result.items == 197
    assert [own.files[0].lacking_items for own in result.results] == [[], ["q0", "q1"], ["q2"]]
    assert any("b.jsonl has no score of 2 items, left out: q0 and q1." in text for text in result.sentences)


def test_lower_is_better_turns_findings_around(tmp_path: Path) -> None:
    for name, level in (("a", 2.0), ("b", 1.0)):
        rows = [{"id": key, "wer": level + value} for key, value in scores(1).items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = ("a", tmp_path / "a.jsonl"), ("b", tmp_path / "b.jsonl")
    assert compared(*files, score="wer").comparisons[0].finding == "better"
    for own in files:
        own[1].write_text(own[1].read_text().replace("wer", "score"))
    assert compared(*files).comparisons[0].finding == "worse"
    assert compared(*files, lower_is_better=True).comparisons[0].finding == "better"


def write(folder: Path) -> dict[str, str]:
    """Files to refuse, by name."""
    json_lines(folder / "a.jsonl", scores(1))
    json_lines(folder / "other.jsonl", {f"other {key}": value for key, value in scores(1).items()})
    lm_eval(folder / "acc.jsonl", scores(1))
    lm_eval(folder / "em.jsonl", scores(1), "exact_match")
    lm_eval(folder / "shifted.jsonl", {f"other {key}": value for key, value in scores(1).items()})
    lm_eval(folder / "tuple.jsonl", {key: [-3.5, 12] for key in ITEMS})
    inspect_json(folder / "log.json", scores(1))
    peft(folder / "peft.json", 622 / 1319)
    peft(folder / "share.json", 0.47123)
    (folder / "results.json").write_text(json.dumps({"results": {"gsm8k": {"acc,none": 0.5}}, "configs": {}}))
    (folder / "repeated.csv").write_text("id,score\n1,1\n1,0\n")
    (folder / "text.csv").write_text("id,score\n1,good\n2,bad\n")
    (folder / "unnamed.csv").write_text("question,answer\nx,y\n")
    (folder / "broken.jsonl").write_text('{"id": 1, "score": 1}\n{"id": 2,\n')
    (folder / "deep.json").write_text("[" * 200_000)
    (folder / "binary.jsonl").write_bytes(b"\xff\xfe\x00\x01" * 50)
    (folder / "empty.csv").write_text("")
    (folder / "short.eval").write_bytes(b"PK\x03\x04 not an archive")
    with zipfile.ZipFile(folder / "foreign.eval", "w") as archive:
        archive.writestr("x.json", "{}")
    (folder / "samples.json").write_text(json.dumps({"eval": {"model": "m"}, "samples": [1, 2]}))
    (folder / "unscored.json").write_text(json.dumps({"eval": {"model": "m"}, "samples": [{"id": 1, "scores": None}]}))
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a.jsonl", "only one result"),
        ("a.jsonl a.jsonl", "two results are named a"),
        ("a.jsonl other.jsonl", "no common item: a has 'q0', other has 'other q0'"),
        ("x=acc.jsonl y=em.jsonl", "different metrics: x is scored with acc, y with exact_match"),
        ("x=acc.jsonl y=shifted.jsonl", "item 0 is another one in"),
        ("x=acc.jsonl y=acc.jsonl --score bleu", "no score bleu,none"),
        ("x=tuple.jsonl y=tuple.jsonl", "the score is not a number: [-3.5, 12]"),
        ("x=log.json y=log.json --score f1", "no score f1"),
        ("a.jsonl peft.json --score correct", "has no items, only their share"),
        ("x=peft.json x=peft.json y=peft.json", "shares of several seeds"),
        ("peft.json share.json", "is not a share of GSM8K's 1,319"),
        ("a.jsonl results.json", "results of lm-evaluation-harness without items"),
        ("a.jsonl repeated.csv", "the item key '1' is repeated"),
        ("a.jsonl text.csv", 'the score is not a number: "good"'),
        ("a.jsonl unnamed.csv", "no column is recognized as the item key: question and answer"),
        ("unnamed.csv a.jsonl --key question --score points", "no column points"),
        ("a.jsonl broken.jsonl", "invalid JSON"),
        ("a.jsonl deep.json", "nested too deeply"),
        ("a.jsonl binary.jsonl", "cannot read the results"),
        ("a.jsonl empty.csv", "no rows with named columns"),
        ("a.jsonl short.eval", "damaged archive"),
        ("a.jsonl foreign.eval", "not a log of Inspect"),
        ("a.jsonl samples.json", "cannot read the results"),
        ("a.jsonl unscored.json", "no sample has a score"),
        ("a.jsonl missing.jsonl", "no such file"),
        ("a.jsonl missing", "missing"),
        ("a.jsonl b=a.jsonl --group topic", "no column topic"),
    ],
)
def test_what_cannot_be_compared_is_one_line_with_status_2(words: str, expected: str, tmp_path: Path) -> None:
    files, page = write(tmp_path), tmp_path / "page.html"
    line = [
        f"{name}={files[file]}" if name and file in files else files.get(word, word)
        for word in words.split()
        for name, _, file in [word.partition("=")]
    ]
    done = ftbench("compare", *line, "--page", str(page))
    assert done.returncode == 2 and not page.exists() and not done.stdout, done
    assert expected in " ".join(done.stderr.split()) and "Traceback" not in done.stderr


def test_the_command_compares_runs_and_writes_a_page_once(tmp_path: Path) -> None:
    """Runs by name, with the metric and the groups of their test items; names from files are escaped."""
    folder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
    state = folder.state()
    assert state is not None
    runs = {rung: [e.run for e in state.entries if e.rung == rung and e.run] for rung in ("lora", "full")}
    page = tmp_path / "page.html"
    names = [f"{rung}<b>={run}" for rung, own in runs.items() for run in own]
    options = "--page", str(page), "--runs", str(tmp_path / "runs")
    names += ["--score", "exact_match"]
    done = ftbench_process("compare", *names, *options, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [own["name"] for own in result["results"]] == ["lora<b>", "full<b>"]
    assert len(result["results"][0]["by_seed"]) == len(runs["lora"]) and result["metric"] == "exact_match"
    assert "lora&lt;b&gt;" in page.read_text() and "<b>" not in page.read_text() and "<script" not in page.read_text()
    again = ftbench("compare", *names, *options)
    assert again.returncode == 2 and "the file exists" in again.stderr
    markdown = ftbench("compare", *names, "--markdown", "--runs", str(tmp_path / "runs")).stdout
    assert markdown.startswith("# lora&lt;b> · full") and "### Pairwise comparisons" in markdown
    shown = ftbench("compare", *names, "--runs", str(tmp_path / "runs")).stdout
    assert "full<b> − lora<b>" in shown and "run: test items" in shown


def test_a_run_that_was_scored_on_other_items_is_refused(tmp_path: Path) -> None:
    folder, _ = made_ladder(tmp_path / "runs", seeds=(0,))
    state = folder.state()
    assert state is not None
    one, other = [entry.run for entry in state.entries if entry.run][:2]
    file = folder.runs / other / "predictions.jsonl"
    file.write_text(file.read_text().replace('"prompt":"', '"prompt":"other '))
    sources = [{"name": "", "run": str(folder.runs / run)} for run in (one, other)]
    given = Fields(score="exact_match")._asdict() | {"sources": sources, "margin": 0.02, "lower_is_better": False}
    with pytest.raises(UserError, match="item 0 is another one in"):
        compare(given | {"command": ""}, lambda *progress: None)
