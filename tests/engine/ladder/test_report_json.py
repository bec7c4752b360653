"""`docs/ladder-json.md` names everything that `ladder.json` holds."""

from __future__ import annotations

import re

import msgspec
import pytest
from places import ROOT

from engine.runs import ladder as contract
from engine.runs.result import Interval, MeasuredPeak

STRUCTS = [
    contract.Ladder,
    contract.SharedWork,
    contract.RungDuration,
    contract.LadderRun,
    contract.RungResult,
    contract.Comparison,
    contract.VerdictSentence,
    contract.SeedRange,
    contract.RentalPrice,
    contract.SplitOverlap,
    contract.ColumnUse,
    contract.RowAccount,
    Interval,
    MeasuredPeak,
]


@pytest.mark.parametrize("struct", STRUCTS, ids=lambda struct: struct.__name__)
def test_every_field_of_ladder_json_is_documented(struct: type[msgspec.Struct]) -> None:
    named = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs" / "ladder-json.md").read_text("utf-8")))
    assert set(struct.__struct_fields__) <= named


def test_all_of_ladder_json_is_among_the_documented() -> None:
    """A struct that is added to the contract is added here."""
    types = {value for value in vars(contract).values() if isinstance(value, type)}
    found = {value for value in types if issubclass(value, msgspec.Struct)}
    plan = {contract.LadderPlan, contract.Rung, contract.Config, msgspec.Struct}  # of ladder.toml
    assert found - plan <= set(STRUCTS)
