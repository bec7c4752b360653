"""Combining defaults, preset and command line to a configuration with the origin of each value."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from engine.config import preset_library
from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.preset import Preset, read_preset, resolve
from engine.config.preset_library import resolve_preset
from engine.config.schema import Config
from engine.config.settings import flatten, parse_overrides
from engine.runs.run import run_dir


def preset(tmp_path: Path, text: str) -> Preset:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return read_preset(path)


@pytest.mark.parametrize("path", [entry.path for entry in preset_library.list_presets()], ids=lambda path: path.stem)
@pytest.mark.parametrize("method", method_names())
def test_every_shipped_preset_resolves_for_every_method(path: Path, method: str) -> None:
    assert resolve(read_preset(path), method).config.method == method


def test_shipped_presets_have_different_slots() -> None:
    slots = [
        entry.preset.values["slot"]
        for entry in preset_library.list_presets()
        if entry.preset and "slot" in entry.preset.values
    ]
    assert sorted(slots) == list(range(1, 10))


def test_later_layers_win_and_origins_say_so(tmp_path: Path) -> None:
    mine = preset(tmp_path, 'method = "lora"\n[train]\nbatch = 8\nseed = 3\n')
    effective = resolve(mine, overrides=parse_overrides(["train.seed=4"]))
    assert (effective.config.train.batch, effective.config.train.seed) == (8, 4)
    assert effective.origins["train.batch"] == "preset mine"
    assert effective.origins["train.seed"] == "command line"
    assert effective.origins["train.learning_rate"] == "default for lora"
    assert effective.origins["train.warmup_ratio"] == "default"


def test_default_learning_rates_are_ten_to_one() -> None:
    rates = {method: resolve(Preset("none", {}), method).config.train.learning_rate for method in method_names()}
    assert rates["lora"] == rates["qlora"] == pytest.approx(10 * rates["full"])


def test_a_rate_set_for_one_method_is_not_another_ones(tmp_path: Path) -> None:
    mine = preset(tmp_path, 'method = "lora"\n[train]\nlearning_rate = 3e-3\n')
    effective = resolve(mine, "full")
    assert effective.config.train.learning_rate == 2e-5
    assert [notice.code for notice in effective.notices] == ["preset.other_method_rate"]


def test_a_table_of_rates_serves_each_method(tmp_path: Path) -> None:
    mine = preset(tmp_path, "[train]\nlearning_rate = { lora = 3e-3, full = 3e-4 }\n")
    assert resolve(mine, "full").config.train.learning_rate == 3e-4
    assert resolve(mine, "lora").config.train.learning_rate == 3e-3
    assert resolve(mine, "qlora").config.train.learning_rate == 2e-4


def test_sections_another_method_reads_are_left_out_with_a_note(tmp_path: Path) -> None:
    mine = preset(tmp_path, 'method = "lora"\n[adapter]\nrank = 4\n')
    (notice,) = resolve(mine, "full").notices
    assert notice.code == "preset.unread_key" and "adapter.rank" in notice.text


def test_a_frozen_run_reads_back_as_it_was(tmp_path: Path) -> None:
    effective = preset_library.resolve_preset(
        "demo-qlora", None, parse_overrides(["data.map.prompt=Q: {x}", "train.steps=5"])
    )
    run = run_dir.create(tmp_path / "runs", "demo-qlora", effective)
    frozen = run_dir.read_frozen(run)
    assert frozen.config == effective.config and frozen.origins == effective.origins


def test_every_key_of_the_schema_is_in_the_flat_view() -> None:
    table = msgspec.to_builtins(Config())
    flat = flatten(Config())
    for section, values in table.items():
        for key in values if isinstance(values, dict) else []:
            assert f"{section}.{key}" in flat


def test_toml_values_on_the_command_line() -> None:
    parsed = parse_overrides(
        ["train.batch=8", "adapter.target_modules=['q_proj']", "data.id=some/name", "train.micro_batch=auto"]
    )
    assert parsed == {
        "train.batch": 8,
        "adapter.target_modules": ["q_proj"],
        "data.id": "some/name",
        "train.micro_batch": "auto",
    }


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("train.epochs=nan", "preset.invalid_value"),
        ("data.validation=nan", "preset.invalid_value"),
        ("evaluation.json_pass=inf", "preset.unknown_key"),
        ("train.weight_decay=inf", "preset.invalid_value"),
        ("method=x", "method.unknown"),
    ],
)
def test_an_invalid_value_is_reported_for_the_command_line(setting: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        resolve(preset(tmp_path, 'method = "lora"\n'), None, parse_overrides([setting]))
    assert (error.value.code, error.value.location) == (code, f"command line ({setting.partition('=')[0]})")


@pytest.mark.parametrize("setting", ["train.select=best", "train.patience=2"])
def test_a_selection_of_weights_needs_validation_rows(setting: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        resolve(preset(tmp_path, 'method = "lora"\n'), None, parse_overrides([setting, "data.validation=0"]))
    assert error.value.code == "preset.no_validation_rows"


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 10_000])
def test_a_value_that_python_does_not_convert_is_text(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        resolve(preset(tmp_path, 'method = "lora"\n'), None, parse_overrides([f"train.batch={text}"]))
    assert error.value.code == "preset.invalid_value"


def test_a_pair_without_equals_is_refused() -> None:
    with pytest.raises(UserError) as error:
        parse_overrides(["train.batch"])
    assert error.value.code == "cli.invalid_setting"


def test_two_presets_with_the_same_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own keeps it, and the shipped one is still listed."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = preset_library.user_folder()
    folder.mkdir(parents=True)
    (folder / "zz.toml").write_text('title = "mine"\nslot = 2\n')
    listed = preset_library.list_presets()
    assert {entry.slot: entry.name for entry in listed if entry.slot}[2] == "zz"
    assert next(entry for entry in listed if entry.name == "demo-lora").slot is None


@pytest.mark.parametrize("key", ["data.id", "data.test", "model.id"])
def test_an_address_is_explained(key: str) -> None:
    with pytest.raises(UserError) as refused:
        resolve_preset("demo-lora", None, {key: "https://example.org/rows.jsonl"})
    assert refused.value.code == "preset.address" and "curl" in refused.value.hint
    with pytest.raises(UserError) as refused:
        resolve_preset("demo-lora", None, {key: "https://huggingface.co/datasets/owner/name"})
    assert "owner/name" in refused.value.hint
