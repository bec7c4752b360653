"""The data check refuses the same rows as a run, with the same error."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from forked import ftbench

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.schema import Config
from engine.data.items import evaluation_items
from engine.data.rows import Row
from engine.evaluation.preflight import unscorable_warning
from engine.worker.planning import describe_workload
from engine.worker.requests import data_check

LONG = [{"prompt": f"ask {number}", "completion": "long " * 1500 + str(number)} for number in range(40)]
PLAIN = [{"text": f"a text without a prompt {number}"} for number in range(40)]
ONE_LABEL = [{"prompt": f"ask {number}", "completion": "yes"} for number in range(40)]
MANY_LABELS = [{"prompt": f"ask {number}", "completion": f"say {number}"} for number in range(1400)]
CASES = {
    "longer than the model": (LONG, {"train.max_length": 2048}),
    "one label to choose from": (ONE_LABEL, {"evaluation.metric": "choice"}),
    "too many labels to choose from": (MANY_LABELS, {"evaluation.metric": "choice"}),
    "no prompt to answer": (PLAIN, {"evaluation.metric": "exact_match"}),
    "nothing left after the cut": (LONG, {"train.max_length": 8}),
}


def config(path: Path, rows: list[dict[str, str]], settings: dict[str, object]) -> Config:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return resolve_preset("demo-lora", None, {"data.id": str(path), **settings}).config


def refused_by_check(chosen: Config) -> str | None:
    arguments = {name: msgspec.to_builtins(getattr(chosen, name)) for name in ("data", "model", "evaluation")}
    report = data_check({**arguments, "max_length": chosen.train.max_length}, lambda *said: None)
    refusal: str | None = report["refused"]
    return refusal


def refused_by_run(chosen: Config) -> str | None:
    """The error of the steps that a run and a ladder take before the model is loaded."""
    try:
        describe_workload(chosen)
    except UserError as error:
        return error.line
    return None


@pytest.mark.parametrize("case", CASES)
def test_the_check_refuses_what_the_run_refuses(case: str, tmp_path: Path) -> None:
    rows, settings = CASES[case]
    chosen = config(tmp_path / "a.jsonl", rows, settings)
    assert refused_by_check(chosen) == refused_by_run(chosen) is not None


@pytest.mark.parametrize("rows", [PLAIN, ONE_LABEL, LONG])
def test_the_check_accepts_what_the_run_accepts(rows: list[dict[str, str]], tmp_path: Path) -> None:
    chosen = config(tmp_path / "a.jsonl", rows, {"train.max_length": 1024, "evaluation.metric": "loss"})
    assert refused_by_check(chosen) is refused_by_run(chosen) is None


def test_the_commands_say_the_same_of_rows_that_are_too_long(tmp_path: Path) -> None:
    chosen = config(tmp_path / "a.jsonl", LONG, {"train.max_length": 2048})
    line = refused_by_run(chosen)
    checked = ftbench("data", "check", str(tmp_path / "a.jsonl"), "--set", "train.max_length=2048", "--json")
    assert checked.returncode == 2 and json.loads(checked.stdout)["refused"] == line
    ran = ftbench("run", "demo-lora", "--data", str(tmp_path / "a.jsonl"), "--set", "train.max_length=2048")
    assert ran.returncode == 2 and ran.stderr.strip() == f"ftbench: {line}"
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize(
    ("metric", "answers", "unscorable"),
    [
        ("json", [['{"a": 1}'], ["plain"], ["[1]"]], 2),
        ("json", [["plain", '{"a": 1}']], 0),
        ("number", [["12"], ["none"], ["#### 3"]], 1),
        ("exact_match", [["plain"]], 0),
    ],
)
def test_answers_without_the_format_of_the_metric_are_warned_of(
    metric: str, answers: list[list[str]], unscorable: int
) -> None:
    rows = [Row([1, 2], [-100, 2], [1], texts[0], "a.csv:2", False, references=tuple(texts[1:])) for texts in answers]
    notice = unscorable_warning(metric, evaluation_items(rows))
    if not unscorable:
        assert notice is None
        return
    assert notice and (notice.code, notice.text.split()[0]) == ("data.unscorable_answers", str(unscorable))
    assert ("scores 0" in notice.text) == (metric == "number")


@pytest.mark.parametrize(("metric", "warned"), [("json", True), ("exact_match", False)])
def test_the_data_check_warns_of_them_before_a_run_does(metric: str, warned: bool, tmp_path: Path) -> None:
    rows = [{"prompt": f"question {number}", "completion": f"answer {number}"} for number in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = ftbench("data", "check", str(tmp_path / "a.jsonl"), "--set", f"evaluation.metric={metric}", "--json")
    codes = [warning["code"] for warning in json.loads(checked.stdout)["warnings"]]
    assert checked.returncode == 0 and ("data.unscorable_answers" in codes) == warned
