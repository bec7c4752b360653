"""Settings that were renamed: old presets, command lines, runs and ladders still open, with a notice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tomli

from engine.config import user_presets
from engine.config.errors import UserError
from engine.config.preset import flatten, parse_overrides, read_preset, resolve
from engine.config.preset_library import resolve_preset, user_folder
from engine.config.preset_values import known_keys
from engine.config.renamed_keys import RENAMED_KEYS, RENAMED_VALUES, current_values, original_names
from engine.config.schema import Config
from engine.runs.config_check import check_unchanged
from engine.runs.event_log import EventLog
from engine.runs.events import Hello
from engine.runs.run_dir import RunDir, read_frozen

TESTS = Path(__file__).parents[2]
OLD_RUN = TESTS / "old_runs" / "finished-0.1.0"
OLD = """
[train]
warmup = 0.2
packing = "flat"

[adapter]
targets = ["q_proj"]

[evaluation]
general = "none"
"""
CURRENT = {
    "train.warmup_ratio": 0.2,
    "train.packing": "packed",
    "adapter.target_modules": ["q_proj"],
    "evaluation.forgetting_text": "none",
}


def old_preset(folder: Path) -> Path:
    path = folder / "mine.toml"
    path.write_text(OLD)
    return path


def test_every_current_name_is_in_the_schema() -> None:
    assert set(RENAMED_KEYS.values()) <= set(known_keys()) and not set(RENAMED_KEYS) & set(known_keys())
    for (key, _), value in RENAMED_VALUES.items():
        assert flatten(resolve_preset("demo-lora", None, {key: value}).config)[key] == value


def test_an_old_preset_is_read_with_a_notice_for_each_key(tmp_path: Path) -> None:
    found = resolve(read_preset(old_preset(tmp_path)))
    values = flatten(found.config)
    assert {key: values[key] for key in CURRENT} == CURRENT
    told = {notice.text: notice.code for notice in found.notices}
    key = "adapter.targets was renamed to adapter.target_modules: mine.toml line 7 (adapter.targets); use the new name"
    assert told[key] == "preset.renamed_key"
    assert sorted(told.values()) == [*["preset.renamed_key"] * 3, "preset.renamed_value"]


def test_an_error_in_an_old_key_points_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nwarmup = 2\n")
    with pytest.raises(UserError) as error:
        read_preset(path)
    assert error.value.code == "preset.invalid_value" and error.value.where == "mine.toml line 2 (train.warmup_ratio)"


def test_old_and_current_name_with_different_values_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nwarmup = 0.1\nwarmup_ratio = 0.2\n")
    with pytest.raises(UserError) as error:
        read_preset(path)
    assert error.value.code == "preset.conflicting_values"


def test_old_names_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prose").write_text("one two")
    found = resolve_preset("demo-lora", None, parse_overrides(["evaluation.general=prose", "train.packing=flat"]))
    assert found.config.evaluation.forgetting_text == str(tmp_path / "prose")
    assert found.config.train.packing == "packed"
    assert [notice.code for notice in found.notices] == ["preset.renamed_key", "preset.renamed_value"]


@pytest.mark.parametrize("old", ["card24-qlora", "gpu24-qlora"])
def test_a_shipped_preset_is_found_by_its_old_name(old: str) -> None:
    found = resolve_preset(old, None, {})
    assert found.config == resolve_preset("qwen2.5-7b-24gb-qlora", None, {}).config
    assert [notice.code for notice in found.notices] == ["preset.renamed"]


def test_a_preset_made_with_an_old_name_has_the_current_one() -> None:
    user_presets.create_from_preset("mine", "demo-lora", {"train.warmup": 0.3})
    text = (user_folder() / "mine.toml").read_text()
    assert "warmup_ratio = 0.3" in text and resolve_preset("mine", None, {}).notices == []


def test_an_old_run_opens_and_may_resume(tmp_path: Path) -> None:
    run = RunDir(tmp_path / OLD_RUN.name)
    shutil.copytree(OLD_RUN, run.path)
    frozen = read_frozen(run)
    assert frozen.config.adapter.target_modules == ["q_proj"] and frozen.intact
    assert frozen.origins["adapter.target_modules"] and "adapter.targets" not in frozen.origins
    assert any("adapter.targets was renamed to adapter.target_modules" in note for note in frozen.notes)
    table = tomli.loads(run.config_file.read_text())
    recorded = {key: value for key, value in flat_sections(table).items() if not key.startswith(("run.", "origins."))}
    EventLog(run.events_file).write(Hello(pid=1, host="h", version="0.1.0", config=recorded))
    check_unchanged(run, frozen)


def flat_sections(table: dict[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for section, content in table.items():
        flat |= (
            {f"{section}.{key}": value for key, value in content.items()}
            if isinstance(content, dict)
            else {section: content}
        )
    return flat


def test_fingerprints_do_not_change_with_the_names() -> None:
    values = flatten(resolve_preset("demo-lora", None, {"train.packing": "packed"}).config)
    old = original_names(values)
    assert old["train.packing"] == "flat" and "adapter.targets" in old and "adapter.target_modules" not in old
    assert current_values(old)[0] == values


def test_a_run_from_before_a_setting_keeps_what_it_did(tmp_path: Path) -> None:
    """Prompts of earlier runs had the chat template's own default for `enable_thinking`."""
    shutil.copytree(OLD_RUN, tmp_path / "run")
    frozen = read_frozen(RunDir(tmp_path / "run"))
    assert frozen.config.model.enable_thinking and not Config().model.enable_thinking
    check_unchanged(RunDir(tmp_path / "run"), frozen)
