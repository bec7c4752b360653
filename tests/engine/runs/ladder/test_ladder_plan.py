"""The rungs of a ladder, the rates it tries, and the identity of runs."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.preset_library import list_presets, shipped_folder, without_method
from engine.config.schema import UNRELATED_KEYS
from engine.config.settings import flatten, with_settings
from engine.ladder.pipeline import best_trials
from engine.ladder.runner import identity, relevant_settings
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_plan import describe_plan, differing_settings, make_plan, shared
from engine.runs.ladder.ladder_state import LadderEntry, halving_rounds, rate_grid

FINGERPRINTS = {"data": "d", "model": "m"}
MACHINE = {"device": "2 CPU cores", "threads": 2}


def trial(rate: float, loss: float | None, status: str = "finished") -> LadderEntry:
    return LadderEntry(rung="lora", kind="trial", seed=0, learning_rate=rate, status=status, validation_loss=loss)


def refused(rungs: list[str], overrides: dict[str, object] | None = None) -> UserError:
    with pytest.raises(UserError) as caught:
        make_plan("demo", rungs, overrides or {})
    return caught.value


def test_the_default_rungs_are_the_three_methods_at_their_preset_rates() -> None:
    plan = make_plan("demo", [], {}, seeds=3)
    assert [rung.name for rung in plan.rungs] == ["qlora", "lora", "full"]
    assert plan.seeds == [0, 1, 2]
    assert differing_settings(plan.rungs)["train.learning_rate"] == {"qlora": 5e-3, "lora": 5e-3, "full": 5e-4}
    assert shared(plan.rungs)["evaluation.metric"] == "auto"


def test_a_plan_is_read_back_from_its_file(tmp_path: Path) -> None:
    plan = make_plan("demo", ["lora", "wide=lora,adapter.rank=64"], {"train.steps": 5}, seeds=2, margin=0.01)
    stored = ladder_dir.create(tmp_path, plan).plan()
    assert stored == msgspec.structs.replace(plan, started_in=str(Path.cwd()), number=1)


def test_an_adapter_setting_does_not_apply_to_full() -> None:
    plan = make_plan("demo", [], {"adapter.rank": 4})
    assert {rung.name: rung.config.adapter.rank for rung in plan.rungs if rung.method != "full"} == {
        "qlora": 4,
        "lora": 4,
    }


def test_rungs_may_differ_in_settings_but_not_in_their_work() -> None:
    make_plan("demo", ["lora", "slow=lora,train.learning_rate=1e-4,train.weight_decay=0.1,adapter.rank=2"], {})
    for key, value in (
        ("train.max_length", 99),
        ("train.select", '"best"'),
        ("train.patience", 2),
        ("evaluation.rows", 7),
        ("evaluation.reasoning_tags", '["[","]"]'),
        ("evaluation.generated_only", "true"),
        ("data.seed", 1),
        ("model.id", '"/tmp"'),
    ):
        error = refused(["lora", f"odd=lora,{key}={value}"])
        assert error.code == "ladder.different_work" and key in error.problem


def test_rates_are_half_a_decade_apart_around_the_preset_rate() -> None:
    assert rate_grid(2e-4, 1) == [2e-4]
    assert rate_grid(2e-4, 3) == pytest.approx([6.3e-5, 2e-4, 6.3e-4])
    assert rate_grid(1e-3, 2) == pytest.approx([1e-3, 3.2e-3])
    assert max(rate_grid(0.5, 5)) == 1.0


def test_the_rate_with_the_lowest_validation_loss_is_chosen() -> None:
    trials = [trial(1e-4, 0.9), trial(3e-4, 0.7), trial(1e-3, None, "diverged")]
    assert best_trials(trials)[0] is trials[1]
    assert best_trials([trial(1e-3, None, "diverged")]) == []


def test_successive_halving_keeps_a_third_and_trains_three_times_as_long() -> None:
    assert halving_rounds(9, 900) == [(9, 100), (3, 300), (2, None)]
    assert halving_rounds(5, 900) == [(5, 300), (2, None)]
    assert halving_rounds(3, 900) == [(3, None)] and halving_rounds(2, 900) == [(2, None)]
    assert halving_rounds(4, 6) == [(4, 4), (2, None)]  # at least 4 steps
    trials = [trial(1e-4, 0.9), trial(3e-4, 0.7), trial(1e-3, None, "diverged"), trial(3e-3, 0.8)]
    assert [trial.learning_rate for trial in best_trials(trials)[:2]] == [3e-4, 3e-3] and best_trials(trials[2:3]) == []


def test_the_number_of_runs_counts_the_trials_of_every_round() -> None:
    assert make_plan("demo", ["lora"], {}, learning_rates=9, probe=False).run_count == 9 + 3 + 2 + 1
    assert make_plan("demo", ["lora"], {}, learning_rates=3, probe=False).run_count == 3 + 1


def test_the_identity_depends_on_everything_that_affects_the_numbers() -> None:
    config = make_plan("demo", ["lora"], {}).rungs[0].config

    def run_identity(config=config, fingerprints=FINGERPRINTS, versions=None, machine=MACHINE) -> str:  # type: ignore[no-untyped-def]
        return identity(config, fingerprints, versions or {"torch": "2"}, machine)

    same = with_settings(config, {"cost.price_per_hour": 3.0})
    assert run_identity() == run_identity(config=same)
    others = [
        run_identity(config=with_settings(config, {"train.seed": 1})),
        run_identity(config=with_settings(config, {"evaluation.when": "after"})),
        run_identity(fingerprints={**FINGERPRINTS, "data": "other"}),
        run_identity(versions={"torch": "3"}),
        run_identity(machine={**MACHINE, "threads": 1}),
    ]
    assert len({run_identity(), *others}) == 6


def test_every_setting_is_part_of_the_identity_unless_it_changes_no_number() -> None:
    config = make_plan("demo", ["lora"], {}).rungs[0].config
    settings = flatten(config)
    ignored = settings.keys() - relevant_settings(config).keys()
    assert ignored == {*UNRELATED_KEYS, "evaluation.benchmark_limit"}


def test_a_comma_in_a_value_does_not_separate_settings() -> None:
    (rung,) = make_plan("demo", ['few=lora,adapter.target_modules=["q_proj","v_proj"],adapter.rank=4'], {}).rungs
    assert rung.settings == {"adapter.target_modules": ["q_proj", "v_proj"], "adapter.rank": 4}


@pytest.mark.parametrize("rung", ["odd=lora,adapter.rank", "odd=lora,"])
def test_a_setting_without_a_value_is_refused_and_names_the_option(rung: str) -> None:
    assert refused([rung]).location == "--rung"


@pytest.mark.parametrize("rung", ["base=lora", "base-4bit=full", "lora=full", "Full=lora", ""])
def test_a_misleading_rung_name_is_refused(rung: str) -> None:
    assert refused([rung]).code == ("ladder.rung_name" if rung else "ladder.unknown_method")


def test_names_that_differ_only_in_case_are_duplicates() -> None:
    assert refused(["wide=lora", "Wide=lora,adapter.rank=64"]).code == "ladder.rung_name"


def test_a_setting_without_effect_is_refused() -> None:
    for key, value in (("method", "full"), ("evaluation.when", "never")):
        error = refused([], {key: value})
        assert (error.code, error.location) == ("ladder.key_set_by_ladder", key)
    for setting in ("train.seed=7", "method=full", "evaluation.when=never"):
        error = refused(["lora", f"odd=lora,{setting}"])
        assert (error.code, error.location) == ("ladder.key_set_by_ladder", setting.partition("=")[0])
    error = refused(["full"], {"adapter.rank": 4})
    assert (error.code, error.location) == ("ladder.unread_key", "adapter.rank")
    assert make_plan("demo", ["lora"], {"train.seed": 5}, seeds=2).seeds == [5, 6]


def test_a_general_text_is_resolved_in_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose").write_text("one two three")
    for value, path in (("prose", str(tmp_path / "prose")), ("auto", "auto"), ("none", "none")):
        (rung,) = make_plan("demo", ["lora"], {"evaluation.forgetting_text": value}).rungs
        assert rung.config.evaluation.forgetting_text == path


@pytest.mark.parametrize("preset", ["demo", "demo-qlora", "demo-lora", "demo-full"])
def test_a_demo_preset_trains_each_method_at_the_rate_of_the_demo(preset: str) -> None:
    plan = make_plan(preset, [], {})
    rates = {rung.name: rung.config.train.learning_rate for rung in plan.rungs}
    assert rates == {"qlora": 5e-3, "lora": 5e-3, "full": 5e-4}
    assert {rung.rate_origin for rung in plan.rungs} == {f"preset {preset}"}


def test_a_ladder_of_a_shipped_preset_has_no_warnings() -> None:
    shipped = [entry.name for entry in list_presets() if entry.path.parent == shipped_folder()]
    assert len(shipped) > 8
    notices = [notice for name in shipped for notice in make_plan(name, [], {"data.id": "tickets"}).notices]
    # PEFT's benchmark prescribes adapter settings, which its rung of full fine-tuning does not read.
    assert {notice.code for notice in notices} <= {"preset.unread_key"}
    assert all(notice.text.startswith("adapter.") for notice in notices)


def test_a_plan_has_the_notices_of_its_rungs_and_the_origin_of_each_rate(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('method = "lora"\n[train]\nlearning_rate = 3e-3\n[adapter]\nrank = 4\n')
    plan = make_plan(str(mine), ["qlora", "lora", "full", "slow=lora,train.learning_rate=1e-4"], {})
    codes = [notice.code for notice in plan.notices]
    assert codes == ["preset.other_method_rate", "preset.other_method_rate", "preset.unread_key"]
    assert {rung.name: (rung.config.train.learning_rate, rung.rate_origin) for rung in plan.rungs} == {
        "qlora": (2e-4, "default for qlora"),
        "lora": (3e-3, "preset mine"),
        "full": (2e-5, "default for full"),
        "slow": (1e-4, "command line"),
    }
    assert ladder_dir.create(tmp_path, plan).plan().notices == plan.notices


@pytest.mark.parametrize(("rates", "probe", "count"), [(1, False, 9), (1, True, 12), (3, False, 18), (3, True, 21)])
def test_the_number_of_runs_includes_probes_and_trials(rates: int, probe: bool, count: int) -> None:
    plan = make_plan("demo", [], {}, seeds=3, learning_rates=rates, probe=probe)
    assert plan.run_count == count
    assert describe_plan(plan).endswith(f": {count} runs")


def test_a_runs_name_has_its_method_once() -> None:
    assert {without_method(f"mine-{method}") for method in method_names()} == {"mine"}
    assert without_method("mine-lora-2") == "mine-lora-2" and without_method("lora") == "lora"
