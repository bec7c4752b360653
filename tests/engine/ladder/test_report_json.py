"""`docs/ladder-json.md` documents all fields of `ladder.json`."""

from __future__ import annotations

import re

import msgspec
import pytest
from places import ROOT

from engine.runs import ladder, rung_results
from engine.runs.account import ColumnUse, RowAccount
from engine.runs.ladder_benchmarks import BenchmarkRow, LadderBenchmark
from engine.runs.overlap import SplitOverlap
from engine.runs.result import Interval, MeasuredPeak

STRUCTS = [
    ladder.Ladder,
    ladder.SharedWork,
    ladder.RungDuration,
    ladder.LadderEntry,
    rung_results.RungResult,
    rung_results.Comparison,
    rung_results.VerdictSentence,
    rung_results.LadderSummary,
    rung_results.RungTradeoff,
    rung_results.SeedRange,
    rung_results.RentalPrice,
    SplitOverlap,
    ColumnUse,
    RowAccount,
    LadderBenchmark,
    BenchmarkRow,
    Interval,
    MeasuredPeak,
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_of_ladder_json_is_documented(struct: type[msgspec.Struct]) -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs" / "ladder-json.md").read_text("utf-8")))
    assert set(struct.__struct_fields__) <= named


def test_all_structs_of_ladder_json_are_checked() -> None:
    """A new struct has to be added to STRUCTS."""
    types = {value for module in (ladder, rung_results) for value in vars(module).values() if isinstance(value, type)}
    found = {value for value in types if issubclass(value, msgspec.Struct)}
    assert found - {msgspec.Struct} == set(STRUCTS) & found
