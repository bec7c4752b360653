"""Which rungs a ladder has, which rates it tries, and when two runs are the same run."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.errors import UserError
from engine.ladder.identity import identity
from engine.ladder.rates import at_the_edge, choose, grid
from engine.ladder.runner import with_values
from engine.runs import ladder_dir
from engine.runs.ladder import LadderRun
from engine.runs.ladder_plan import differing, make_plan, shared

PRINTS = {"data": "d", "model": "m"}
MACHINE = {"device": "2 CPU cores", "threads": 2}


def trial(rate: float, loss: float | None, status: str = "finished") -> LadderRun:
    return LadderRun(rung="lora", kind="trial", seed=0, learning_rate=rate, status=status, validation_loss=loss)


def test_the_three_methods_at_rates_of_their_own() -> None:
    plan = make_plan("demo", [], {}, seeds=3)
    assert [rung.name for rung in plan.rungs] == ["qlora", "lora", "full"]
    assert plan.seeds == [0, 1, 2]
    assert differing(plan.rungs)["train.learning_rate"] == {"qlora": 5e-3, "lora": 5e-3, "full": 1e-3}
    assert shared(plan.rungs)["evaluation.metric"] == "json"


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    plan = make_plan("demo", ["lora", "wide=lora,adapter.rank=64"], {"train.steps": 5}, seeds=2, command="ftbench …")
    assert ladder_dir.create(tmp_path, plan).plan() == plan


def test_a_setting_of_adapters_says_nothing_to_full() -> None:
    plan = make_plan("demo", [], {"adapter.rank": 4})
    assert {rung.name: rung.config.adapter.rank for rung in plan.rungs if rung.method != "full"} == {
        "qlora": 4,
        "lora": 4,
    }


def test_rungs_may_differ_in_their_recipe_and_not_in_their_work() -> None:
    make_plan("demo", ["lora", "slow=lora,train.learning_rate=1e-4,train.weight_decay=0.1,adapter.rank=2"], {})
    for key, value in (("train.max_length", 99), ("evaluation.rows", 7), ("data.seed", 1), ("model.id", '"/tmp"')):
        with pytest.raises(UserError) as error:
            make_plan("demo", ["lora", f"odd=lora,{key}={value}"], {})
        assert error.value.code == "ladder.different_work" and key in error.value.what


def test_rates_are_half_a_decade_apart_around_the_presets_own() -> None:
    assert grid(2e-4, 1) == [2e-4]
    assert grid(2e-4, 3) == pytest.approx([6.3e-5, 2e-4, 6.3e-4])
    assert grid(1e-3, 2) == pytest.approx([1e-3, 3.2e-3])
    assert max(grid(0.5, 5)) == 1.0


def test_the_lowest_validation_loss_wins_and_an_edge_is_noticed() -> None:
    trials = [trial(1e-4, 0.9), trial(3e-4, 0.7), trial(1e-3, None, "diverged")]
    assert (best := choose(trials)) is trials[1]
    assert not at_the_edge(best, trials)
    assert at_the_edge(trials[0], trials)
    assert choose([trial(1e-3, None, "diverged")]) is None


def test_a_run_is_the_same_only_where_nothing_that_decides_its_numbers_differs() -> None:
    config = make_plan("demo", ["lora"], {}).rungs[0].config

    def known(config=config, prints=PRINTS, versions=None, machine=MACHINE) -> str:  # type: ignore[no-untyped-def]
        return identity(config, prints, versions or {"torch": "2"}, machine)

    same = with_values(config, cost={"price_per_hour": 3.0})
    assert known() == known(config=same)
    others = [
        known(config=with_values(config, train={"seed": 1})),
        known(config=with_values(config, evaluation={"when": "after"})),
        known(prints={**PRINTS, "data": "other"}),
        known(versions={"torch": "3"}),
        known(machine={**MACHINE, "threads": 1}),
    ]
    assert len({known(), *others}) == 6


def test_a_comma_within_a_value_does_not_end_it() -> None:
    (rung,) = make_plan("demo", ['few=lora,adapter.target_modules=["q_proj","v_proj"],adapter.rank=4'], {}).rungs
    assert rung.settings == {"adapter.target_modules": ["q_proj", "v_proj"], "adapter.rank": 4}


@pytest.mark.parametrize("word", ["odd=lora,adapter.rank", "odd=lora,"])
def test_a_setting_without_a_value_is_refused_by_the_option_it_was_given_by(word: str) -> None:
    with pytest.raises(UserError) as caught:
        make_plan("demo", [word], {})
    assert caught.value.where == "--rung"


@pytest.mark.parametrize("word", ["base=lora", "base-4bit=full", "lora=full", "Full=lora", ""])
def test_a_name_that_would_mislead_is_refused(word: str) -> None:
    with pytest.raises(UserError) as error:
        make_plan("demo", [word], {})
    assert error.value.code == ("ladder.rung_name" if word else "ladder.unknown_method")


def test_two_names_that_differ_in_case_only_are_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        make_plan("demo", ["wide=lora", "Wide=lora,adapter.rank=64"], {})
    assert error.value.code == "ladder.rung_name"


def test_what_a_ladder_would_not_heed_is_refused() -> None:
    for key, value in (("method", "full"), ("evaluation.when", "never")):
        with pytest.raises(UserError) as error:
            make_plan("demo", [], {key: value})
        assert (error.value.code, error.value.where) == ("ladder.key_set_by_ladder", key)
    for setting in ("train.seed=7", "method=full", "evaluation.when=never"):
        with pytest.raises(UserError) as error:
            make_plan("demo", ["lora", f"odd=lora,{setting}"], {})
        assert (error.value.code, error.value.where) == ("ladder.key_set_by_ladder", setting.partition("=")[0])
    with pytest.raises(UserError) as error:
        make_plan("demo", ["full"], {"adapter.rank": 4})
    assert (error.value.code, error.value.where) == ("ladder.unread_key", "adapter.rank")
    assert make_plan("demo", ["lora"], {"train.seed": 5}, seeds=2).seeds == [5, 6]


def test_a_general_text_is_a_file_where_the_command_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose").write_text("one two three")
    general = {
        wish: make_plan("demo", ["lora"], {"evaluation.forgetting_text": wish})
        .rungs[0]
        .config.evaluation.forgetting_text
        for wish in ("prose", "auto", "none")
    }
    assert general == {"prose": str(tmp_path / "prose"), "auto": "auto", "none": "none"}
