"""Gates pass only where the lower bound of a gain is large enough."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import ftbench
from made_ladder import made_ladder

from engine.config.errors import UserError
from engine.runs.ladder.ladder_state import Gain, gain_of_rung
from engine.runs.run.result import Interval


def gain(low: float | None) -> Gain:
    interval = Interval(mean=0.1, low=low, high=0.2, rows=100)
    return Gain(candidate="a", reference="b", metric="exact_match", gain=interval)


@pytest.mark.parametrize(
    ("low", "least", "passed"), [(0.05, 0.05, True), (0.049, 0.05, False), (-0.01, 0.0, False), (None, -1.0, False)]
)
def test_the_lower_bound_decides(low: float | None, least: float, passed: bool) -> None:
    assert gain(low).clears(least) == passed


def test_a_rungs_gain_has_the_sign_of_an_improvement(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    full = gain_of_rung(ladder, "full", "qlora").gain
    assert full.mean == pytest.approx(0.041) and full.low is not None and full.low < full.mean
    qlora = gain_of_rung(ladder, "qlora", "full").gain
    assert (qlora.mean, qlora.low, qlora.high) == (-full.mean, -full.high, -full.low)
    _, by_loss = made_ladder(tmp_path / "loss", metric="loss")
    assert gain_of_rung(by_loss, "full", "qlora").gain.mean == pytest.approx(-0.041)


@pytest.mark.parametrize(
    ("rung", "against", "code"),
    [(None, "base", "gate.which"), ("nf4", "full", "gate.no_comparison"), ("full", "nf4", "gate.no_comparison")],
)
def test_unknown_rungs_are_refused(rung: str | None, against: str, code: str, tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    with pytest.raises(UserError) as caught:
        gain_of_rung(ladder, rung, against)
    assert caught.value.code == code and caught.value.hint


def test_the_command_on_a_ladder(tmp_path: Path) -> None:
    folder, _ = made_ladder(tmp_path)
    words = ("gate", str(folder.path), "--rung", "full", "--against", "qlora", "--json")
    passed, failed = ftbench(*words, "--min-gain", "-50"), ftbench(*words, "--min-gain", "50")
    assert (passed.returncode, failed.returncode) == (0, 1)
    answer = json.loads(passed.stdout)
    assert answer["passed"] and answer["min_gain"] == -0.5 and answer["gain"]["mean"] == pytest.approx(0.041)
    wrong = ftbench(*words, "--metric", "json")
    assert wrong.returncode == 2 and json.loads(wrong.stderr)["error"]["code"] == "gate.unknown_metric"
