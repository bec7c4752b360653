"""`[track]` in config.toml: the default of presets that do not set trackers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.schema import section_of
from engine.extensions.trackers.settings import Track
from engine.runs.ladder.ladder_plan import make_plan
from tui.settings import read_settings


@pytest.fixture
def settings() -> Path:
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "ftbench" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('theme = "nord"\n[track]\nto = ["tensorboard"]\nproject = "mails"\n')
    return path


def test_runs_and_rungs_have_the_users_trackers(settings: Path) -> None:
    effective = resolve_preset("demo-lora", None, {})
    track = section_of(effective.config, Track)
    assert (track.to, track.project) == (
        ["tensorboard"],
        "mails",
    )
    assert effective.origins["track.to"] == "config.toml" and effective.origins["track.online"] == "default"
    assert all(section_of(rung.config, Track).to == ["tensorboard"] for rung in make_plan("demo", ["lora"], {}).rungs)
    assert read_settings(["nord"]).errors == []


def test_the_command_line_and_a_preset_take_precedence(settings: Path, tmp_path: Path) -> None:
    assert section_of(resolve_preset("demo-lora", None, {"track.to": []}).config, Track).to == []
    mine = tmp_path / "mine.toml"
    mine.write_text('method = "lora"\n[track]\nto = ["trackio"]\n')
    effective = resolve_preset(str(mine), None, {})
    track = section_of(effective.config, Track)
    assert (track.to, track.project) == (
        ["trackio"],
        "mails",
    )


@pytest.mark.parametrize("text", ['[track]\nto = "tensorboard"', '[track]\nto = ["mlflow"]', "[track]\nname = 1"])
def test_an_invalid_table_is_an_error(settings: Path, text: str) -> None:
    settings.write_text(text)
    with pytest.raises(UserError, match=r"invalid \[track\]") as error:
        resolve_preset("demo-lora", None, {})
    assert error.value.code == "track.invalid_settings" and str(settings) in error.value.location


def test_a_file_without_the_table_changes_nothing(settings: Path) -> None:
    settings.write_text('theme = "nord"  # no tracker\n')
    assert section_of(resolve_preset("demo-lora", None, {}).config, Track).to == []
