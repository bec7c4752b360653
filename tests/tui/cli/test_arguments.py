"""The command line without a process: the runs home before a subcommand, and an error for conflicting values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from engine.config.errors import UserError
from engine.config.schema import SECTIONS
from engine.config.settings import parse_overrides
from tui.cli.main import Subcommand, app
from tui.cli.options import OPTION_KEYS, overrides
from tui.start import bench_options

ROOT: Any = get_command(app)


def inner(command: Any, *words: str) -> Any:
    """The subcommand of these words, with its options."""
    for word in words:
        command = command.commands[word]
    if isinstance(command, Subcommand):
        command.load()
    return command


def leaves(command: Any = ROOT, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every subcommand by its words."""
    if not isinstance(command, TyperGroup):
        yield path
        return
    for name in command.commands:
        yield from leaves(inner(command, name), (*path, name))


COMMANDS = list(leaves())


def test_the_runs_before_a_subcommand_are_those_of_each_that_has_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own option has precedence."""
    given: dict[str, Any] = {}
    tried = 0
    for words in COMMANDS:
        command = inner(ROOT, *words)
        if not any(parameter.name == "runs" for parameter in command.params):
            continue
        needed = [parameter for parameter in command.params if parameter.required]
        values = ["x" if isinstance(parameter, TyperArgument) else f"{parameter.opts[0]}=x" for parameter in needed]
        monkeypatch.setattr(command, "callback", lambda **values: given.update(values))
        for own, runs in (([], "/a"), (["--runs=/b"], "/b")):
            given.clear()
            line = ["--runs=/a", *words, *values, *own]
            with pytest.raises(typer.Exit), ROOT.make_context("ftbench", line) as context:
                ROOT.invoke(context)
            assert str(given["runs"]) == runs, words
        tried += 1
    assert tried > 10


@pytest.mark.parametrize("words", [(), *COMMANDS], ids=" ".join)
def test_every_option_with_one_value_refuses_a_second_one(words: tuple[str, ...]) -> None:
    command = inner(ROOT, *words)
    for option in command.params:
        if isinstance(option, TyperOption) and not option.is_flag and not option.multiple:
            with pytest.raises(UserError) as caught:
                command.make_context("ftbench", [f"{option.opts[0]}=1", option.opts[0], "1"])
            assert caught.value.code == "cli.conflicting_values"


@pytest.mark.parametrize(("option", "key"), OPTION_KEYS.items())
def test_an_option_and_a_setting_of_the_same_key_agree_or_are_refused(option: str, key: str) -> None:
    name = option.removeprefix("--").replace("-", "_")
    overrides([f"{key}=7"], **{name: 7})
    with pytest.raises(UserError) as caught:
        overrides([f"{key}=8"], **{name: 7})
    assert (
        caught.value.code == "cli.conflicting_values" and key in caught.value.problem and option in caught.value.problem
    )


def test_options_named_after_a_key_are_in_the_table() -> None:
    keys = {"method", *(f"{section}.id" for section in ("model", "data"))}
    keys |= {f"{section}.{key}" for section, kind in SECTIONS.items() for key in kind.__struct_fields__}
    apart = {
        "ladder --probe": "the ladder's probe runs, not train.probe",
        "ladder --base-shots": "the ladder sets evaluation.base_shots of one run",
        "presets --name": "of the preset, not optimizer.name or executor.name",
        "export --to": "the form of the artifact, not track.to",
        "track --to": "of a run that exists; its default is the run's track.to",
        "track --project": "likewise, track.project",
        "track --online": "likewise, track.online",
        "export --type": "the stored weights, not quantization.type",
        "compare --group": "a column of the compared files, not data.group",
        "gate --metric": "of answers that exist, not evaluation.metric",
        "demo --devices": "hardware.device; `train.devices` is how many of them train one run",
        "ladder --devices": "likewise",
        "judge --patience": "of a judge that does not answer, not train.patience",
        "try --seed": "of the sampling, not train.seed",
        "try --max-new-tokens": "of these answers, not of an evaluation",
    }
    for words in COMMANDS:
        for option in inner(ROOT, *words).params:
            name = option.opts[0].removeprefix("--").replace("-", "_")
            same = {key for key in keys if name in (key, key.rpartition(".")[2], key.removesuffix(".id"))}
            if isinstance(option, TyperOption) and same and f"{words[0]} {option.opts[0]}" not in apart:
                assert option.opts[0] in OPTION_KEYS or option.opts[0] in ("--rows",), (words, option.opts[0])


@pytest.mark.parametrize(
    "pairs",
    [
        ["train.batch=4", "train.batch=5"],
        ["data.map.prompt=a", "data.map.prompt=b"],
        ["data.map.prompt=a", 'data.map={prompt = "b", completion = "c"}'],
        ['data.map={prompt = "b", completion = "c"}', "data.map.prompt=a"],
    ],
)
def test_a_setting_given_twice_with_different_values_is_refused(pairs: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        parse_overrides(pairs)
    assert caught.value.code == "preset.conflicting_values"
    parse_overrides([pairs[0], pairs[0]])


def test_the_fast_path_leaves_invalid_options_to_the_full_parser() -> None:
    for line in (["--runs", ""], ["--runs="], ["--runs"], ["runs"], ["--runs=/a", "--runs", "/b"]):
        assert bench_options(line) is None
    assert bench_options(["--runs", "/a", "--ascii", "--no-mouse"]) is not None
