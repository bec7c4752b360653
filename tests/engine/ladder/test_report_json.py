"""`docs/ladder-json.md` documents all fields of `ladder.json`."""

from __future__ import annotations

import re

import msgspec
import pytest
from places import ROOT

from engine.runs import ladder as ladder_types
from engine.runs.ladder_benchmarks import BenchmarkRow, LadderBenchmark
from engine.runs.result import Interval, MeasuredPeak

STRUCTS = [
    ladder_types.Ladder,
    ladder_types.SharedWork,
    ladder_types.RungDuration,
    ladder_types.LadderRun,
    ladder_types.RungResult,
    ladder_types.Comparison,
    ladder_types.VerdictSentence,
    ladder_types.LadderSummary,
    ladder_types.RungTradeoff,
    ladder_types.SeedRange,
    ladder_types.RentalPrice,
    ladder_types.SplitOverlap,
    ladder_types.ColumnUse,
    ladder_types.RowAccount,
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
    types = {value for value in vars(ladder_types).values() if isinstance(value, type)}
    found = {value for value in types if issubclass(value, msgspec.Struct)}
    of_the_plan = {ladder_types.LadderPlan, ladder_types.Rung, ladder_types.Config, ladder_types.Notice}
    of_the_plan.add(ladder_types.Artifact)
    assert found - of_the_plan - {msgspec.Struct} <= set(STRUCTS)
