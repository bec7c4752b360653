"""Ladders that run until their questions are decided: error rate of all looks, kept decisions, rungs that go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import forked
import msgspec
import numpy as np
import pytest
from faults.kill_ladder import SHORT, wait_for
from simulated_grid import MARGIN, RUNGS, Cell, simulate, until_decided

from engine.config.errors import UserError
from engine.ladder.sentences import conclude
from engine.ladder.sequential import MIN_LEVEL, chance_of_decision, information_shares, look_level
from engine.ladder.statistics import ItemScores, MeanSamples
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import describe_plan, make_plan
from engine.runs.ladder.ladder_state import FIRST_LOOK


@pytest.mark.parametrize("most", [2, 3, 5, 8, 20])
@pytest.mark.parametrize("comparisons", [1, 6])
@pytest.mark.parametrize("items", [0.0, 0.3, 10.0])
def test_the_error_rate_of_all_looks_is_five_percent(most: int, comparisons: int, items: float) -> None:
    """`items`: variance of the items, in those of one seed: the more, the more alike are the looks."""
    random, ladders = np.random.default_rng(0), 100_000
    seeds = np.arange(FIRST_LOOK, most + 1)
    information = (items + 1 / most) / (items + 1 / seeds)
    levels: list[float] = []
    for look in range(1, len(seeds) + 1):
        levels.append(look_level(tuple(information[:look].tolist()), tuple(levels), comparisons))
    crossed = np.zeros(ladders, bool)
    for _ in range(comparisons):  # independent ones, the worst case
        steps = np.sqrt(np.diff(information, prepend=0.0)) * random.normal(size=(ladders, len(seeds)))
        means = steps.cumsum(1) / np.sqrt(information)
        for look, level in enumerate(levels):
            crossed |= np.abs(means[:, look]) > _critical(level / comparisons)
    assert levels[-1] < 0.0501 and min(levels) >= MIN_LEVEL
    assert 0.040 < crossed.mean() < 0.053


def _critical(level: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(1 - level / 2)


def test_information_grows_with_the_seeds_and_is_less_where_a_rung_varies() -> None:
    """The first seeds have most of the information if items are most of the variance, and nobody can know it of two."""
    random = np.random.default_rng(2)

    def shares(std: float, seeds: int) -> tuple[float, ...]:
        stds = {"a": 0.001, "b": std}
        means = {name: 0.6 + own * random.permutation(np.linspace(-1, 1, seeds))[:, None] for name, own in stds.items()}
        scores = {name: ItemScores((random.random((seeds, 300)) < mean).astype(float)) for name, mean in means.items()}
        return information_shares(MeanSamples(scores, (0.0, 1.0)), range(FIRST_LOOK, 9), 8)

    calm, unstable, two = shares(0.001, 6), shares(0.15, 6), shares(0.001, 2)
    for information in (calm, unstable, two):
        assert list(information) == sorted(information) and information[-1] == 1.0
        assert all(0.99 * seeds / 8 <= share for seeds, share in enumerate(information, FIRST_LOOK))
    assert calm[0] > two[0] + 0.05 and calm[0] > 0.5 and unstable[0] < 0.4


def test_a_question_that_seeds_cannot_decide_has_no_chance_and_a_clear_one_has() -> None:
    random = np.random.default_rng(1)
    item = random.random(40)

    def scores(rate: float, items: int, seeds: int) -> ItemScores:
        return ItemScores((np.resize(item, items) + random.normal(0, 0.2, (seeds, items)) < rate).astype(float))

    few = MeanSamples({"a": scores(0.5, 40, 3), "b": scores(0.53, 40, 3)}, (0.0, 1.0))
    many = MeanSamples({"a": scores(0.5, 4000, 3), "b": scores(0.6, 4000, 3)}, (0.0, 1.0))
    contrast = {"a": 1.0, "b": -1.0}
    assert chance_of_decision(few, contrast, 8, 1) < 0.2 < 0.8 < chance_of_decision(many, contrast, 8, 1)
    assert chance_of_decision(many, contrast, 3, 1) == 0.0  # no further seed
    assert chance_of_decision(few, contrast, 8, 1, MARGIN) >= chance_of_decision(few, contrast, 8, 1)


@pytest.mark.parametrize("effects", [True, False])
def test_decisions_stay_and_only_rungs_with_an_open_question_get_seeds(effects: bool) -> None:
    cell = Cell("threshold", 300, (6,) * 3, (1.5,) * 3, effects)
    random = np.random.default_rng(5)
    stopped = 0
    for _ in range(8):
        ladder = until_decided(simulate(cell, random), 6)
        decided: set[tuple[str, str]] = set()
        needed = set(RUNGS)
        for look in ladder.looks:
            pairs = {
                (decision.comparison.a, decision.comparison.b) for decision in look.decisions if decision.comparison
            }
            assert not pairs & decided  # each is decided once
            decided |= pairs
            assert set(look.rungs) <= needed
            needed = set(look.rungs)
            assert all(decision.comparison.finding != "undecided" for decision in look.decisions if decision.comparison)
        final = {(comparison.a, comparison.b): comparison for comparison in ladder.comparisons}
        for look in ladder.looks:
            for decision in look.decisions:
                if decision.comparison:
                    assert final[decision.comparison.a, decision.comparison.b] == decision.comparison
        assert ladder.looks[0].seeds >= FIRST_LOOK and not ladder.looks[-1].rungs
        stopped += ladder.looks[-1].runs < 18
        conclude(ladder)
        said = [sentence.text for sentence in ladder.verdict if sentence.topic == "decided"]
        undecided = sum(comparison.finding == "undecided" for comparison in ladder.comparisons)
        assert sum(text.startswith("Undecided: ") and " against " in text for text in said) == undecided
    assert stopped  # fewer runs than a fixed ladder with the most seeds


def test_the_plan_names_the_most_runs_and_refuses_what_it_cannot_combine() -> None:
    plan = make_plan("demo", ["lora", "full"], {}, max_seeds=4, probe=False)
    assert plan.until_decided and len(plan.seeds) == 4
    assert "2 to 4 seeds" in describe_plan(plan) and "at most 8 runs" in describe_plan(plan)
    for options in ({"seeds": 3}, {"ship": ["merged"]}):
        with pytest.raises(UserError) as refused:
            make_plan("demo", ["lora"], {}, max_seeds=4, **options)
        assert refused.value.code == "ladder.until_decided"
    with pytest.raises(UserError) as refused:
        make_plan("demo", ["lora"], {}, max_seeds=1)
    assert refused.value.code == "ladder.seeds"


@pytest.mark.slow
def test_a_killed_ladder_continues_with_the_same_decisions(tmp_path: Path) -> None:
    rows = ["evaluation.rows=30" if word == "evaluation.rows=4" else word for word in SHORT]
    words = ("ladder", "demo", "--rung", "lora,full", "--until-decided", "--max-seeds", "3", "--no-probe", *rows)
    assert forked.ftbench(*words, "--detach").returncode == 0
    (folder,) = LadderDir.iterate(tmp_path / "runs")
    wait_for(lambda: bool((state := folder.state()) and (state.looks or state.status != "running")))
    os.kill(folder.pid() or 0, signal.SIGKILL)
    wait_for(lambda: not folder.is_active())
    before = looks(folder)
    done = forked.ftbench("resume", str(folder.path))
    assert done.returncode == 0, done.stderr
    assert looks(folder)[: len(before)] == before
    state = folder.state()
    assert state and state.status == "finished" and not state.looks[-1].rungs
    runs = [entry for entry in state.entries if entry.kind == "run"]
    assert len(runs) == state.looks[-1].runs and all(entry.status == "finished" for entry in runs)
    # Another ladder reuses all runs, and decides the same.
    other = forked.ftbench(*words, "--runs", str(tmp_path / "runs"))
    assert other.returncode == 0
    (second,) = [directory for directory in LadderDir.iterate(tmp_path / "runs") if directory.path != folder.path]
    assert looks(second) == looks(folder)


def looks(folder: LadderDir) -> list[object]:
    state = folder.state()
    return [msgspec.to_builtins(look) for look in state.looks] if state else []
