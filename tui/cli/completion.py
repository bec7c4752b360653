"""`completion`: print a shell's completion script; the script asks the same subcommand for the words that fit.

Scripts evaluate no output: names of runs and presets reach the shell as data. Typer's script for zsh passes what the
program prints to `eval` (typer 0.29, `_completion_shared.py`), so it is not used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer.core import TyperOption

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.gpu_prices import list_gpus
from engine.config.method_specs import method_names
from engine.config.metric_specs import metric_names
from engine.config.preset_library import list_presets
from engine.config.schema import SECTIONS, TrackerName
from engine.config.settings import known_keys
from engine.runs.cleaning import KINDS
from engine.runs.home import runs_home
from engine.runs.ladder import ladder_dir
from engine.runs.run import run_dir
from engine.runs.run.exports import ExportKind, WeightType, artifact_words
from tui.cli.arguments import global_options
from tui.cli.schema import FILES
from tui.data.datasets import EMBEDDED
from tui.data.recent import read_recent
from tui.output import streams

SHELLS = ("bash", "zsh")
Values = Iterable[str]


def run_names(home: Path | None) -> Values:
    """The runs of the runs home, the latest first."""
    return ["last", *sorted((run.name for run in run_dir.iterate(runs_home(home))), reverse=True)]


def ladder_names(home: Path | None) -> Values:
    """Ladders, and sweeps, which the same subcommands accept."""
    folders = (*ladder_dir.iterate(runs_home(home)), *ladder_dir.iterate_sweeps(runs_home(home)))
    return ["last", *sorted((ladder.name for ladder in folders), reverse=True)]


def all_names(home: Path | None) -> Values:
    """Runs and ladders."""
    return dict.fromkeys([*run_names(home), *ladder_names(home)])


def preset_names(home: Path | None) -> Values:
    return [entry.name for entry in list_presets() if not entry.error]


def data_names(home: Path | None) -> Values:
    """Embedded and recent datasets; the shell adds the files."""
    return [*EMBEDDED, *read_recent()]


def settings(home: Path | None) -> Values:
    """`train.batch=`, and with each value for keys that have a few: `train.schedule=linear`."""
    words = [f"{key}=" for key in known_keys() if "." in key]
    for section, kind in SECTIONS.items():
        for name, annotation in get_type_hints(kind).items():
            words += [f"{section}.{name}={value}" for value in _choices(annotation)]
    words += [f"evaluation.metric={name}" for name in metric_names()]
    return words


def _choices(annotation: Any) -> list[str]:
    """The values of a field that is one of a few: `Literal["a", "b"]`, `bool`."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) is list:
        return []
    return [choice for argument in get_args(annotation) for choice in _choices(argument)]


def _fixed(*values: str) -> Callable[[Path | None], Values]:
    return lambda home: values


OPTIONS: dict[str, Callable[[Path | None], Values]] = {
    "--set": settings,
    "--method": lambda home: method_names(),
    "--rung": lambda home: method_names(),
    "--model": lambda home: ["tiny", *CATALOG],
    "--data": data_names,
    "--preset": preset_names,
    "--from": run_names,
    "--run": run_names,
    "--against": lambda home: ["base", "start", *run_names(home)],
    "--metric": lambda home: metric_names(),
    "--gpu": lambda home: [gpu.name for gpu in list_gpus()],
    "--ship": _fixed("gguf", *artifact_words()),
    "--type": _fixed(*get_args(WeightType)),
    "--split": _fixed("train", "validation", "test"),
    "--device": _fixed("auto", "cpu"),
    "--devices": _fixed("auto", "all", "cpu", "cpu:2"),
}
"""Option -> its values."""
OPTIONS_OF = {
    ("export", "--to"): _fixed(*get_args(ExportKind)),
    ("track", "--to"): _fixed(*get_args(TrackerName)),
    ("presets new", "--from"): preset_names,
}
"""The same where an option has another meaning in one subcommand."""
ARGUMENTS: dict[str, Callable[[Path | None], Values]] = {
    "RUN": all_names,
    "RUN...": all_names,
    "LADDER": ladder_names,
    "PRESET": preset_names,
    "DATA": data_names,
    "SHELL": _fixed(*SHELLS),
    "FILE": _fixed(*FILES),
    "WHAT...": _fixed(*KINDS),
}
"""Metavar of an argument -> its values."""
ARGUMENTS_OF = {"pull": lambda home: ["gguf", *CATALOG]}
"""The same for the argument of one subcommand."""


def _read(source: Callable[[Path | None], Values] | None, home: Path | None) -> Values:
    """The values of an option or argument; none where it takes a file, a number or text, or they cannot be read."""
    try:
        return [] if source is None else source(home)
    except (OSError, UserError):  # no message while a line is typed; the command itself reports it
        return []


WORD_BREAKS = re.compile(r".*[=:]")
"""bash completes what follows the last of these characters in a word."""
SCRIPTS = {
    "bash": """\
_ftbench() {
    local line word
    COMPREPLY=()
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <("$1" completion bash --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -gt 0 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}
complete -o bashdefault -o default -o nosort -F _ftbench ftbench
""",
    "zsh": """\
#compdef ftbench
_ftbench() {
    local -a found complete open
    found=("${(@f)$("$words[1]" completion zsh --line "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
    complete=("${(@)found:#*=}")
    open=("${(@M)found:#*=}")
    if [[ -z "${found[*]}" ]]; then
        _files
        return
    fi
    compadd -V ftbench -a complete
    compadd -V ftbench -S '' -a open
}
if [[ "$funcstack[1]" == _ftbench ]]; then
    _ftbench "$@"
else
    compdef _ftbench ftbench
fi
""",
}


def completion(shell: str, line: str | None, root: Any) -> None:
    """Print the script, or with a `line` (up to the cursor) one word per line. Raises UserError for another shell.

    `root`: the command `ftbench`.
    """
    if shell not in SHELLS:
        hint = f"use {' or '.join(SHELLS)}"
        raise UserError(f"unsupported shell {shell!r}", hint=hint, code="cli.unknown_shell")
    if line is None:
        streams.write(SCRIPTS[shell])
        return
    words = split(line)
    for word in dict.fromkeys(candidates(words, root)):
        if word.isprintable():
            streams.write(f"{_as_typed(word, words[-1]) if shell == 'bash' else word}\n")


def split(line: str) -> list[str]:
    """The words of a line; the last one, which is completed, may be empty. An open quote is closed."""
    for closing in ("", '"', "'"):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        return words if words and not line[-1:].isspace() else [*words, ""]
    return [""]


def _as_typed(word: str, typed: str) -> str:
    """The part that bash inserts: after the last word break, quoted."""
    broken = WORD_BREAKS.match(typed)
    return shlex.quote(word.removeprefix(broken.group()) if broken else word).replace("''", "")


@dataclass
class Position:
    """What a command line has named so far."""

    command: Any
    path: list[str] = field(default_factory=list)
    arguments: int = 0
    """Arguments given."""
    expects: TyperOption | None = None
    """The option whose value comes next."""
    home: Path | None = None
    """Value of --runs."""

    @property
    def subcommand(self) -> str:
        return " ".join(self.path)

    def options(self) -> list[TyperOption]:
        own = [
            parameter
            for parameter in self.command.params
            if isinstance(parameter, TyperOption) and not parameter.hidden
        ]
        return [*own, *(global_options(self.command) if not self.path else [])]

    def option(self, name: str) -> TyperOption | None:
        return next((option for option in self.options() if name in (*option.opts, *option.secondary_opts)), None)

    def take(self, word: str) -> None:
        """Account for a complete word."""
        if self.expects is not None:
            if self.expects.name == "runs":
                self.home = Path(word)
            self.expects = None
        elif word.startswith("-"):
            option = self.option(word)
            self.expects = option if option is not None and not option.is_flag else None
        elif word in (commands := getattr(self.command, "commands", {})):
            self.command, self.path = commands[word], [*self.path, word]
        else:
            self.arguments += 1


def candidates(words: list[str], root: Any) -> Iterator[str]:
    """The words that can stand in place of the last one of a command line."""
    position = Position(root)
    for word in words[1:-1]:
        position.take(word)
    typed = words[-1]
    return (word for word in _offered(position, typed) if word.startswith(typed))


def _offered(position: Position, typed: str) -> Iterator[str]:
    name, equals, _ = typed.partition("=")
    if position.expects is not None:
        yield from _values(position, position.expects.opts[0], typed)
    elif typed.startswith("--") and equals and (option := position.option(name)):
        yield from (f"{name}={value}" for value in _values(position, option.opts[0], typed[len(name) + 1 :]))
    elif typed.startswith("-"):
        for offered in position.options():
            yield from (*offered.opts, *offered.secondary_opts)
        yield "--help"
    elif commands := getattr(position.command, "commands", {}):
        yield from (name for name, subcommand in commands.items() if not subcommand.hidden)
    else:
        yield from _read(ARGUMENTS_OF.get(position.subcommand) or ARGUMENTS.get(_metavar(position)), position.home)


def _values(position: Position, option: str, typed: str) -> Iterator[str]:
    """Values of an option; the values of a setting only once its key is typed, those of a list after each comma."""
    before = typed[: typed.rfind(",") + 1] if option == "--ship" else ""
    source = OPTIONS_OF.get((position.subcommand, option)) or OPTIONS.get(option)
    for value in _read(source, position.home):
        if option != "--set" or ("=" in typed) == (not value.endswith("=")):
            yield before + value


def _metavar(position: Position) -> str:
    """Metavar of the next argument, '' if there is none; the last one may be repeated."""
    arguments = [parameter for parameter in position.command.params if not isinstance(parameter, TyperOption)]
    if not arguments or (position.arguments >= len(arguments) and arguments[-1].nargs == 1):
        return ""
    return str(arguments[min(position.arguments, len(arguments) - 1)].metavar or "")
