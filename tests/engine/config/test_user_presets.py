"""Own presets: only differences are written, nothing is overwritten, shipped presets are not changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import preset_library
from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.preset import SHOW_KEYS, EffectiveConfig
from engine.config.preset_library import resolve_preset
from engine.config.settings import Flat, flatten

QUIET = ("title", "about", "slot")


def listed(name: str) -> preset_library.PresetEntry:
    return next(entry for entry in preset_library.list_presets() if entry.name == name)


def values_of(chosen: EffectiveConfig) -> dict[str, object]:
    return {key: value for key, value in flatten(chosen.config).items() if key not in QUIET}


@pytest.mark.parametrize("base", [entry.name for entry in preset_library.list_presets()])
@pytest.mark.parametrize("method", method_names())
def test_a_saved_choice_is_the_same_configuration(base: str, method: str) -> None:
    chosen = resolve_preset(base, method, {"train.batch": 12, "train.micro_batch": 3})
    preset_library.create_from_config("mine", base, chosen)
    assert values_of(resolve_preset("mine", None, {})) == values_of(chosen)


def test_only_what_differs_is_written() -> None:
    path = preset_library.create_from_config(
        "mine", "demo-lora", resolve_preset("demo-lora", None, {"train.batch": 16})
    )
    text = path.read_text()
    assert 'method = "lora"' in text and "epochs = 2" in text and "max_new_tokens = 96" in text
    for absent in ("slot", "warmup", "[adapter]", "beta1", "batch = 16"):
        assert absent not in text


def test_the_rates_of_the_other_methods_are_kept() -> None:
    preset_library.create_from_config("mine", "demo", resolve_preset("demo", "lora", {}))
    assert resolve_preset("mine", "full", {}).config.train.learning_rate == 5e-4
    preset_library.create_from_config("own-rate", "demo", resolve_preset("demo", "lora", {"train.learning_rate": 0.5}))
    assert resolve_preset("own-rate", "lora", {}).config.train.learning_rate == 0.5


def test_steps_given_for_a_preset_of_epochs_make_a_preset_of_steps() -> None:
    preset_library.create_from_config("mine", "demo-lora", resolve_preset("demo-lora", None, {"train.steps": 4}))
    assert resolve_preset("mine", None, {}).config.train.steps == 4


@pytest.mark.parametrize("name", ["mine", "demo-lora", "gpus", "../x", "", ".hidden", "a b", "x" * 65])
def test_an_existing_or_invalid_name_is_refused(name: str) -> None:
    before = preset_library.create_from_preset("mine", "demo-lora").read_text()
    for write in (
        lambda: preset_library.create_from_preset(name, "demo-full"),
        lambda: preset_library.create_from_config(name, "demo-full", resolve_preset("demo-full", None, {})),
    ):
        with pytest.raises(UserError):
            write()
    assert [path.name for path in preset_library.user_folder().iterdir()] == ["mine.toml"]
    assert (preset_library.user_folder() / "mine.toml").read_text() == before


def test_a_file_that_appears_meanwhile_is_not_overwritten(monkeypatch: pytest.MonkeyPatch) -> None:
    path = preset_library.create_from_preset("mine", "demo-lora")
    monkeypatch.setattr(preset_library, "list_presets", list)
    with pytest.raises(UserError) as error:
        preset_library.create_from_preset("mine", "demo-full")
    assert error.value.code == "preset.exists"
    assert "demo-lora" in path.read_text()
    assert [path.name for path in preset_library.user_folder().iterdir()] == ["mine.toml"]


def test_a_copy_hides_the_shipped_one_until_it_is_deleted() -> None:
    shipped = listed("demo-lora")
    assert not preset_library.is_own(shipped)
    path = preset_library.copy_to_own(shipped)
    own = listed("demo-lora")
    assert own.path == path and path.read_text() == shipped.path.read_text() and preset_library.is_own(own)
    preset_library.delete_own(own)
    assert listed("demo-lora").path == shipped.path
    with pytest.raises(UserError) as error:
        preset_library.delete_own(shipped)
    assert error.value.code == "preset.shipped"
    assert shipped.path.exists()


def test_a_folder_that_cannot_be_created_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(UserError) as error:
        preset_library.create_from_preset("mine", "demo-lora")
    assert error.value.code == "preset.not_writable"


@pytest.mark.parametrize(
    ("preset", "name"),
    [("qwen2.5-7b-lora", "qwen2.5-7b-lora"), ("demo", "demo"), ("/a/b/mine.toml", "mine"), ("./x.y.toml", "x.y")],
)
def test_a_dot_in_a_name_does_not_end_it(preset: str, name: str) -> None:
    assert preset_library.preset_name(preset) == name


@pytest.mark.parametrize("method", [None, *method_names()])
@pytest.mark.parametrize("base", ["demo-lora", "demo", "smollm2-qlora"])
def test_a_preset_made_with_settings_is_what_a_run_with_them_would_be(base: str, method: str | None) -> None:
    given: Flat = {"train.steps": 4, "title": "my own", "train.batch": 12} | ({"method": method} if method else {})
    preset_library.create_from_preset("mine", base, given)
    assert values_of(resolve_preset("mine", None, {})) == values_of(resolve_preset(base, method, given)) | {
        "train.epochs": 3.0
    }
    assert listed("mine").preset.values["title"] == "my own"


def test_an_invalid_setting_is_reported_for_the_command_line() -> None:
    with pytest.raises(UserError) as error:
        preset_library.create_from_preset("mine", "demo-lora", {"train.foo": 1})
    assert error.value.code == "preset.unknown_key" and error.value.location == "command line (train.foo)"
    assert not (preset_library.user_folder() / "mine.toml").exists()


def test_a_file_name_is_stored_as_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mails.csv").write_text("text,label\na,b\n")
    monkeypatch.chdir(tmp_path)
    preset_library.create_from_preset("mine", "demo-lora", {"data.id": "mails.csv"})
    monkeypatch.chdir("/")
    assert resolve_preset("mine", None, {}).config.data.id == str(tmp_path / "mails.csv")


@pytest.mark.parametrize(
    ("key", "nearest", "hint"),
    [
        ("evaluation.items", "", "metric, "),
        ("evaluation.bach", "evaluation.batch?", SHOW_KEYS),
        ("evaluation.steps", "train.steps?", SHOW_KEYS),
        ("learning_rte", "train.learning_rate?", SHOW_KEYS),
        ("trian.epoch", "train.epochs?", SHOW_KEYS),
    ],
)
def test_an_unknown_key_names_the_nearest_or_all_of_its_section(key: str, nearest: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        resolve_preset("demo-lora", None, {key: 1})
    assert error.value.code == "preset.unknown_key" and key in error.value.problem
    assert nearest in error.value.problem and ("?" in error.value.problem) == bool(nearest)
    assert hint in error.value.hint
