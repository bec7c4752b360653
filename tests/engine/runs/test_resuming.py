"""A hand-edited `run.toml` is refused when the run resumes, with the key, its old and its new value."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from command import ftbench

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.schema import Config
from engine.config.settings import flatten
from engine.runs import start
from engine.runs.run import run_dir
from engine.runs.run.event_log import EventLog
from engine.runs.run.events import Hello
from engine.runs.run.run_dir import RunDir, check_unchanged
from engine.runs.start import change_configuration, find_moved_files, resume_run


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose worker wrote `hello` and was killed."""
    made = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {"train.batch": 4}))
    config = run_dir.values_that_are_set(run_dir.read_frozen(made).config)
    EventLog(made.events_file).write(Hello(pid=1, host="h", version="0", config=config))
    return made


def edit(run: RunDir, before: str, after: str) -> None:
    text = run.config_file.read_text()
    assert before in text
    run.config_file.write_text(text.replace(before, after))


def refusal(run: RunDir) -> UserError:
    with pytest.raises(UserError) as caught:
        start.start_worker(run)
    assert not run.log_file.exists(), "nothing was started"
    return caught.value


def change(text: str, key: str) -> list[str]:
    """The old and the new value of a key in the refusal's text."""
    said = re.search(rf"\b{re.escape(key)}\b([^,;:]*)", text)
    return re.findall(r"\d+|unset", said[1]) if said else []


def test_a_changed_key_is_named_with_both_values(run: RunDir) -> None:
    edit(run, "batch = 4\n", "batch = 8\n")
    edit(run, "rank = 16\n", "rank = 2\n")
    error = refusal(run)
    assert error.code == "run.config_changed" and error.location == str(run.config_file)
    assert change(error.problem, "train.batch") == ["4", "8"] and change(error.problem, "adapter.rank") == ["16", "2"]


def test_the_command_exits_with_2(run: RunDir) -> None:
    edit(run, "batch = 4\n", "batch = 8\n")
    done = ftbench("resume", run.name, "--runs", str(run.path.parent))
    assert done.returncode == 2 and change(done.stderr, "train.batch") == ["4", "8"]
    assert len(done.stderr.splitlines()) == 1


def test_a_key_that_was_removed_or_added_is_a_change(run: RunDir) -> None:
    edit(run, "batch = 4\n", "")
    assert change(refusal(run).problem, "train.batch") == ["4", "16"]
    edit(run, "[train]\n", "[train]\nbatch = 4\nsteps = 3\n")
    assert change(refusal(run).problem, "train.steps") == ["unset", "3"]


def test_every_key_is_compared() -> None:
    """A key that is added to the schema is compared too: nothing lists them."""
    recorded = run_dir.values_that_are_set(Config())
    assert set(recorded) == {key for key, value in flatten(Config()).items() if value is not None and value != {}}


@pytest.mark.parametrize("before", ["batch = 4\n", "[train]\n", "rank = 16\n"])
def test_comments_and_layout_are_ignored(before: str, run: RunDir) -> None:
    edit(run, before, f"\n# a note\n{before.strip()}   # another\n\n")
    check_unchanged(run, run_dir.read_frozen(run))


def test_the_file_of_another_run_is_refused(run: RunDir, tmp_path: Path) -> None:
    other = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {"train.batch": 8}))
    run.config_file.write_bytes(other.config_file.read_bytes())
    assert change(refusal(run).problem, "train.batch") == ["4", "8"]


def test_a_run_that_never_started_is_refused_by_its_fingerprint(run: RunDir) -> None:
    run.events_file.unlink()
    check_unchanged(run, run_dir.read_frozen(run))
    edit(run, "batch = 4\n", "batch = 8\n")
    edit(run, "rank = 16\n", "")
    error = refusal(run)
    assert error.code == "run.config_changed"
    assert re.findall(r"\w+\.\w+", error.problem) == ["adapter.rank", "train.batch"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_numbers_that_are_not_finite_are_refused_by_key(value: str, run: RunDir) -> None:
    created = next(line for line in run.config_file.read_text().splitlines() if line.startswith("created = "))
    edit(run, created, f"created = {value}")
    error = refusal(run)
    assert error.code == "run.config_damaged" and f"run.created is {value}" in error.problem


def test_a_new_key_at_its_default_is_not_a_change(run: RunDir) -> None:
    config = run_dir.values_that_are_set(run_dir.read_frozen(run).config)
    del config["train.probe"]
    run.events_file.unlink()
    EventLog(run.events_file).write(Hello(pid=1, host="h", version="0", config=config))
    check_unchanged(run, run_dir.read_frozen(run))


ODD = ["1" * 5000, "9999-99-99", "[" * 3000, "{a = " * 2000, "nan", "-inf", '"\\uD800"', "0x", "1e999", "10" * 200]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_any_changed_value_is_a_user_error(value: str, run: RunDir) -> None:
    edit(run, "learning_rate = 0.005\n", f"learning_rate = {value}\n")
    with pytest.raises(UserError):
        start.start_worker(run)


def test_random_damage_to_the_file_is_refused_or_harmless(run: RunDir) -> None:
    chance, text = random.Random(5), run.config_file.read_bytes()
    before = run_dir.read_frozen(run).config
    for _ in range(300):
        damaged = bytearray(text)
        for _ in range(chance.choice([1, 3, 20])):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        run.config_file.write_bytes(bytes(damaged[: chance.choice([len(text), chance.randrange(len(text))])]))
        try:
            frozen = run_dir.read_frozen(run)
            check_unchanged(run, frozen)
        except UserError:
            continue
        assert frozen.config == before


def test_a_run_whose_folder_is_not_utf8_is_refused_before_it_starts(run: RunDir) -> None:
    """Its log could not be written: the worker would end after the training."""
    moved = Path(os.fsdecode(os.fsencode(run.path.parent) + b"/caf\xe9"))
    run.path.rename(moved)
    with pytest.raises(UserError) as refused:
        resume_run(RunDir(moved))
    assert refused.value.code == "name.not_utf8" and not RunDir(moved).log_file.exists()


def moved_data_run(tmp_path: Path) -> tuple[RunDir, Path]:
    """A stopped run on a data file that is no longer where it was, and where the file is now."""
    before = tmp_path / "old box" / "mails.csv"
    before.parent.mkdir()
    before.write_text("prompt,answer\n" + "".join(f"question {number},answer {number}\n" for number in range(60)))
    effective = resolve_preset("demo-lora", None, {"data.id": str(before), "train.steps": 1})
    stopped = run_dir.create(tmp_path / "runs", "demo-lora", effective)
    config = run_dir.values_that_are_set(run_dir.read_frozen(stopped).config)
    EventLog(stopped.events_file).write(Hello(pid=1, host="h", version="0", config=config))
    now = tmp_path / "box" / "mails.csv"
    now.parent.mkdir()
    before.rename(now)
    return stopped, now


def test_a_file_with_the_same_name_is_found_where_the_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, now = moved_data_run(tmp_path)
    assert find_moved_files_code(stopped) == "run.file_missing"
    monkeypatch.chdir(now.parent)
    moved = find_moved_files(stopped, run_dir.read_frozen(stopped).config, {})
    assert moved == {"data.id": str(now)}
    change_configuration(stopped, moved, lambda config: None)
    frozen = run_dir.read_frozen(stopped)
    assert frozen.config.data.id == str(now) and str(now) in frozen.notes[-1]
    check_unchanged(stopped, frozen)


def find_moved_files_code(run: RunDir) -> str:
    with pytest.raises(UserError) as refused:
        find_moved_files(run, run_dir.read_frozen(run).config, {})
    return refused.value.code


def test_other_settings_cannot_change(run: RunDir) -> None:
    with pytest.raises(UserError) as refused:
        change_configuration(run, {"data.id": "tickets", "train.batch": 8}, lambda config: None)
    assert refused.value.code == "run.setting_fixed" and run_dir.read_frozen(run).config.train.batch == 4
