"""Settings as text: what each accepts, and values that survive being edited."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from engine.config import schema
from engine.config.preset import Preset, resolve
from engine.config.preset_library import create_from_config, resolve_preset
from engine.config.schema import Config, keys_with, user_sections
from engine.config.section import Trait
from engine.config.settings import flatten, known_keys, parse_overrides, parse_setting, setting_specs, setting_text


def test_every_setting_has_a_range_and_a_meaning() -> None:
    specs = setting_specs()
    assert list(specs) == known_keys()
    assert all(spec.accepts and spec.meaning for spec in specs.values())
    assert specs["train.learning_rate"].accepts == "float, > 0 and ≤ 1"
    assert specs["method"].accepts.startswith("qlora, lora, full")


def test_settings_with_a_trait_agree() -> None:
    assert {*schema.RELOCATABLE_KEYS} < {*schema.PATH_KEYS}
    shared, same = schema.SHARED_KEYS, schema.SAME_AS_STARTING_RUN
    assert [key for key in shared if key.startswith("model.")] == [key for key in same if key.startswith("model.")]
    assert all(keys_with(trait) for trait in get_args(Trait) if trait != "user_default")
    assert [*user_sections()] == ["track"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("title", "3"),
        ("title", " two  spaces "),
        ("title", 'a "quoted" \\ word = [x] # no comment'),
        ("data.map", {"prompt": "Q: {question}", "completion": "é"}),
        ("adapter.target_modules", ["q_proj", "v_proj"]),
        ("train.probe", False),
        ("train.learning_rate", 5e-5),
        ("train.micro_batch", "auto"),
    ],
)
def test_a_value_survives_being_edited_as_text(key: str, value: Any) -> None:
    assert parse_setting(key, setting_text(value)) == value
    assert parse_overrides([f"{key}={setting_text(value)}"])[key] == value


def test_every_default_survives_being_edited_as_text() -> None:
    for key, value in flatten(Config()).items():
        if value not in (None, "", {}):
            assert parse_setting(key, setting_text(value)) == value, key


def test_epochs_given_for_a_preset_of_steps_replace_the_steps() -> None:
    preset = Preset("mine", {"train.steps": 400})
    assert resolve(preset).config.train.steps == 400
    effective = resolve(preset, None, {"train.epochs": 1.0})
    assert (effective.config.train.steps, effective.config.train.epochs) == (None, 1.0)
    assert effective.origins["train.steps"] == "default"


def test_another_method_takes_its_learning_rate_from_the_preset_of_the_same_family() -> None:
    for method, rate in (("lora", 3e-3), ("qlora", 4e-3)):
        chosen = resolve_preset("qwen2.5-7b-lora", method, {"train.learning_rate": rate})
        create_from_config(f"mine-{method}", f"qwen2.5-7b-{method}", chosen)
    assert resolve_preset("mine-lora", None, {}).config.train.learning_rate == 3e-3
    effective = resolve_preset("mine-lora", "qlora", {})
    assert effective.config.train.learning_rate == 4e-3
    assert effective.origins["train.learning_rate"] == "preset mine-qlora"
    assert resolve_preset("mine-lora", None, {"method": "qlora"}).config == effective.config
    assert resolve_preset("mine-lora", "full", {}).config.train.learning_rate == 2e-5
    assert resolve_preset("mine-lora", "qlora", {"train.learning_rate": 1e-4}).config.train.learning_rate == 1e-4
