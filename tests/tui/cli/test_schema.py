"""The JSON Schemas of `ftbench schema` accept what ftbench writes, and nothing else, and describe every field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError
from made_ladder import made_ladder
from schema_checks import check_files, validator

from engine.config.errors import UserError
from engine.runs.run import events
from engine.runs.run.event_log import EventLog
from engine.runs.run.result import Interval, Score
from tui.cli.schema import NAMES, json_schema

SETTINGS = ("Config",)


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_a_valid_json_schema(name: str) -> None:
    Draft202012Validator.check_schema(json_schema(name))


@pytest.mark.parametrize("name", ["result", "ladder", "judgment", "ratings", "plan", "comparison", "server-check"])
def test_every_field_is_described(name: str) -> None:
    schema = json_schema(name)
    missing = [
        f"{title}.{field}"
        for title, kind in schema["$defs"].items()
        for field, described in kind.get("properties", {}).items()
        if "description" not in described and title not in SETTINGS
    ]
    assert missing == []


def test_written_files_are_valid(tmp_path: Path) -> None:
    made_ladder(tmp_path, seeds=(0, 1), gpu=True)
    assert check_files(tmp_path) == 7  # six runs and a ladder
    made_ladder(tmp_path / "hostile", seeds=(0,), hostile=True, metric="loss", without=["qlora"])
    check_files(tmp_path / "hostile")


def test_a_number_that_is_not_finite_is_null_and_valid(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    interval = Interval(mean=float("inf"), low=None, high=None, rows=3)
    score = Score(loss=interval, perplexity=float("nan"), metric="json", score=interval)
    log.write(events.Eval(when="before", split="test", step=0, rows=3, loss=float("nan"), score=score))
    log.close()
    assert check_files(tmp_path) == 1


@pytest.mark.parametrize(
    "line",
    [
        {"type": "phase", "name": "resting"},
        {"type": "no_such_event"},
        {"type": "checkpoint", "step": "7", "path": "p", "bytes": 1, "seconds": 1.0},
        {"type": "checkpoint", "step": 7},
        {},
    ],
)
def test_invalid_lines_are_refused(line: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validator("events").validate(line)


def test_fields_are_described_with_their_units() -> None:
    step = json_schema("events")["$defs"]["Step"]["properties"]
    assert "nats/token" in step["loss"]["description"] and "description" in step["elapsed"]


def test_unknown_fields_of_later_versions_are_allowed() -> None:
    validator("events").validate({"type": "phase", "name": "data", "v": 3, "since": "later"})


def test_an_unknown_schema_names_the_known_ones() -> None:
    with pytest.raises(UserError) as refused:
        json_schema("run")
    assert refused.value.code == "schema.unknown" and "'run'" in refused.value.problem
    assert ", ".join(NAMES) in refused.value.hint
