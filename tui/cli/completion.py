"""`completion`: print a shell's completion script; the script asks the same subcommand for the words that fit.

Scripts evaluate no output: names of runs and presets reach the shell as data. Typer's script for zsh passes what the
program prints to `eval` (typer 0.29, `_completion_shared.py`), so it is not used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperOption

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.gpu_prices import list_gpus
from engine.config.method_specs import method_names
from engine.config.metric_specs import metric_names
from engine.config.preset_library import list_presets
from engine.config.schema import SECTIONS
from engine.config.settings import known_keys
from engine.runs.cleaning import KINDS
from engine.runs.home import runs_home
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.run.exports import ExportKind, WeightType, artifact_words
from engine.runs.run.folder import Folder, sort_by_start
from engine.runs.run.run_dir import RunDir
from tui.cli import options
from tui.cli.main import Subcommand
from tui.cli.schema import FILES
from tui.data.recent import EMBEDDED, read_recent
from tui.output import streams

SHELLS = ("bash", "zsh")
Values = Iterable[str]
Source = Callable[[Path | None], Values]
"""The values of an option or argument, for the runs home of the command line."""


def run_names(home: Path | None) -> Values:
    """The runs of the runs home, the latest first."""
    return _names(RunDir.iterate(runs_home(home)))


def ladder_names(home: Path | None) -> Values:
    """Ladders, and sweeps, which the same subcommands accept."""
    folders = (*LadderDir.iterate(runs_home(home)), *SweepDir.iterate(runs_home(home)))
    return _names(folders)


def all_names(home: Path | None) -> Values:
    return dict.fromkeys([*run_names(home), *ladder_names(home)])


def _names(folders: Iterable[Folder]) -> list[str]:
    return ["last", *(folder.name for folder in sort_by_start(folders, latest_first=True))]


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


def _fixed(*values: str) -> Source:
    return lambda home: values


VALUES: dict[str, Source] = {
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
    "RUN": all_names,
    "RUN...": all_names,
    "LADDER": ladder_names,
    "PRESET": preset_names,
    "DATA": data_names,
    "SHELL": _fixed(*SHELLS),
    "FILE": _fixed(*FILES),
    "WHAT...": _fixed(*KINDS),
    "export --to": _fixed(*get_args(ExportKind)),
    "track --to": _fixed("trackio", "tensorboard", "wandb"),
    "presets new --from": preset_names,
    "pull ": lambda home: ["gguf", *CATALOG],
}
"""Option, or metavar of an argument -> its values. A key that starts with a subcommand applies only to that subcommand;
the argument of `pull` has no metavar."""


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


def completion(
    context: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash or zsh.")],
    line: Annotated[str | None, typer.Option("--line", hidden=True)] = None,
    json: options.Json = False,
) -> None:
    """Print the script; with a `line`, which the script gives (up to the cursor), one word per line.

    Raises UserError for another shell.
    """
    if shell not in SHELLS:
        hint = f"use {' or '.join(SHELLS)}"
        raise UserError(f"unsupported shell {shell!r}", hint=hint, code="cli.unknown_shell")
    if line is None:
        streams.write(SCRIPTS[shell])
        return
    words = split(line)
    broken = WORD_BREAKS.match(words[-1])
    for word in filter(str.isprintable, dict.fromkeys(candidates(words, context.find_root().command))):
        if shell == "bash":  # it inserts what follows the last word break
            word = shlex.quote(word.removeprefix(broken.group()) if broken else word).replace("''", "")
        streams.write(f"{word}\n")


def split(line: str) -> list[str]:
    """The words of a line; the last one, which is completed, may be empty. An open quote is closed."""
    for closing in ("", '"', "'"):
        try:
            words = shlex.split(line + closing)
        except ValueError:
            continue
        return words if words and not line[-1:].isspace() else [*words, ""]
    return [""]


def candidates(words: list[str], root: Any) -> Iterator[str]:
    """The words that can stand in place of the last one of a command line. `root`: the command `ftbench`."""
    command, path, home = root, "", None
    expects: TyperOption | None = None
    arguments = 0
    for word in words[1:-1]:
        subcommands = getattr(command, "commands", {})
        if expects is not None:  # the value of an option
            home = Path(word) if expects.name == "runs" else home
            expects = None
        elif word.startswith("-"):
            option = _options(command).get(word)
            expects = option if option is not None and not option.is_flag else None
        elif word in subcommands:
            command, path = subcommands[word], f"{path} {word}".strip()
            if isinstance(command, Subcommand):
                command.load()
        else:
            arguments += 1

    typed = words[-1]
    name, equals, value = typed.partition("=")
    offered: Values
    if expects is not None:
        offered = _values(path, expects.opts[0], typed, home)
    elif typed.startswith("--") and equals and (option := _options(command).get(name)):
        offered = (f"{name}={each}" for each in _values(path, option.opts[0], value, home))
    elif typed.startswith("-"):
        offered = [*_options(command), "--help"]
    elif subcommands := getattr(command, "commands", {}):
        offered = subcommands
    else:
        accepted = [param for param in command.params if not isinstance(param, TyperOption)]
        following = accepted[arguments:] or [last for last in accepted[-1:] if last.nargs != 1]  # takes several values
        offered = _read(path, following[0].metavar or "", home) if following else []
    return (word for word in offered if word.startswith(typed))


def _options(command: Any) -> dict[str, TyperOption]:
    """The options in the help of a command, by each of their words."""
    shown = [param for param in command.params if isinstance(param, TyperOption) and not param.hidden]
    return {word: option for option in shown for word in (*option.opts, *option.secondary_opts)}


def _values(path: str, option: str, typed: str, home: Path | None) -> Iterator[str]:
    """Values of an option; the values of a setting only once its key is typed, those of a list after each comma."""
    before = typed[: typed.rfind(",") + 1] if option == "--ship" else ""
    for value in _read(path, option, home):
        if option != "--set" or ("=" in typed) == (not value.endswith("=")):
            yield before + value


def _read(path: str, name: str, home: Path | None) -> Values:
    """The values of an option or argument; none where it takes a file, a number or text, or they cannot be read."""
    source = VALUES.get(f"{path} {name}") or VALUES.get(name)
    try:
        return [] if source is None else source(home)
    except (OSError, UserError):  # no message while a line is typed; the command itself reports it
        return []
