"""The command line without a process: global options in every position, and an error for conflicting values."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup, TyperOption
from typer.main import get_command

from engine.config.errors import UserError
from engine.config.schema import SECTIONS
from engine.config.settings import parse_overrides
from tui.cli.main import Subcommand, app, global_options
from tui.cli.options import OPTION_KEYS, overrides
from tui.start import bench_options

ROOT: Any = get_command(app)
EAGER = {"version", "help"}
"""Options that print something and exit."""


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


def forms(option: TyperOption) -> Iterator[tuple[list[str], Any, list[str]]]:
    """Ways to write an option, each with its value and with the words passed to an inner command."""
    if not option.is_flag:
        yield [option.opts[0], "/a"], "/a", [option.opts[0], "/a"]
        yield [f"{option.opts[0]}=/b"], "/b", [option.opts[0], "/b"]
        return
    yield [option.opts[0]], True, [option.opts[0]]
    for word in option.secondary_opts:
        yield [word], False, [word]


OPTIONS = [option for option in global_options(ROOT) if option.name not in EAGER]
COMMANDS = list(leaves())


@pytest.fixture(autouse=True)
def output(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--ascii` changes the encoding of the standard output: this one is separate."""
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), "utf-8"))


def parsed(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Parameters and global options that the innermost command receives; nothing is run."""
    command, context, rest = ROOT, None, words
    while True:
        context = command.make_context(command.name or "ftbench", list(rest), parent=context)
        if not isinstance(command, TyperGroup):
            return context.params, context.meta["ftbench.global_options"]
        name, rest = context._protected_args[0], context.args
        command = inner(command, name)


def required(words: tuple[str, ...]) -> list[str]:
    """Values for the arguments and options that the subcommand needs."""
    needed = [parameter for parameter in inner(ROOT, *words).params if parameter.required]
    options = [parameter.opts[0] for parameter in needed if parameter.param_type_name == "option"]
    return [*("x" for _ in range(len(needed) - len(options))), *(word for name in options for word in (name, "x"))]


def test_there_are_subcommands_and_global_options_to_try() -> None:
    assert {option.name for option in OPTIONS} >= {"runs", "ascii_only", "mouse"}
    assert {("run",), ("data", "check"), ("presets", "new"), ("runs",)} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_global_option_works_before_between_and_after_the_subcommand(words: tuple[str, ...]) -> None:
    for option in OPTIONS:
        for written, value, handed_on in forms(option):
            lines = [[*words[:place], *written, *words[place:], *required(words)] for place in range(len(words) + 1)]
            for line in [*lines, [*words, *required(words), *written]]:
                own, everywhere = parsed(line)
                assert everywhere == handed_on, line
                got = own.get(option.name, value)  # a command that has no use for it is not given it
                assert (str(got) if isinstance(got, Path) else got) == value, line


def test_commands_that_read_runs_get_their_folder() -> None:
    reading = {words for words in COMMANDS if "runs" in parsed([*words, *required(words)])[0]}
    assert reading >= {(word,) for word in ("demo", "ladder", "report", "run", "attach", "stop", "resume", "runs")}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_global_option_with_two_values_is_refused_wherever_they_are(words: tuple[str, ...]) -> None:
    rest = [*words, *required(words)]
    for first, second in (("--runs=/a", "--runs=/b"), ("--mouse", "--no-mouse")):
        for line in ([first, *rest, second], [first, second, *rest], [*rest, first, second]):
            with pytest.raises(UserError) as caught:
                parsed(line)
            assert caught.value.code == "cli.conflicting_values", line
        parsed([first, *rest, first])


def test_every_option_with_one_value_refuses_a_second_one_and_a_blank_one() -> None:
    tried = 0
    for words in COMMANDS:
        for option in inner(ROOT, *words).params:
            if isinstance(option, TyperOption) and not option.is_flag:
                rest, name = [*words, *required(words)], option.opts[0]
                if not option.multiple:
                    with pytest.raises(UserError) as caught:
                        parsed([*rest, name, "1", name, "2"])
                    assert caught.value.code == "cli.conflicting_values", (words, name)
                with pytest.raises(UserError) as caught:
                    parsed([*rest, name, " "])
                assert caught.value.code == "cli.empty_value", (words, name)
                tried += 1
    assert tried > 30


@pytest.mark.parametrize("words", [words for words in COMMANDS if required(words)], ids=" ".join)
def test_a_blank_argument_is_refused(words: tuple[str, ...]) -> None:
    for blank in ("", "  "):
        with pytest.raises(UserError) as caught:
            parsed([*words, *[blank for _ in required(words)]])
        assert caught.value.code == "cli.empty_value"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_the_version_is_printed_before_and_after(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for line in (["--version", *words], [*words, "--version"]):
        out = io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(typer.Exit):
            parsed(line)
        assert out.getvalue().startswith("ftbench ")


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
        "gate --metric": "of answers that exist, not evaluation.metric",
        "demo --devices": "hardware.device; `train.devices` is how many of them train one run",
        "ladder --devices": "likewise",
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


def test_the_fast_path_leaves_ambiguous_options_to_the_full_parser() -> None:
    for line in (["--runs=/a", "--runs", "/b"], ["--mouse", "--no-mouse"], ["--runs", ""], ["--runs="]):
        assert bench_options(line) is None
    assert bench_options(["--runs", "/a", "--ascii", "--no-mouse"]) is not None
