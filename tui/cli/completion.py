"""`completion`: print a shell's completion script; the script asks the same subcommand for the words that fit.

Scripts evaluate no output: names of runs and presets reach the shell as data. Typer's script for zsh passes what the
program prints to `eval` (typer 0.29, `_completion_shared.py`), so it is not used.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typer.core import TyperOption

from engine.config.errors import UserError
from tui.cli.arguments import global_options
from tui.cli.completion_values import SHELLS, argument_values, option_values
from tui.output import streams

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
        own = [one for one in self.command.params if isinstance(one, TyperOption) and not one.hidden]
        return [*own, *(global_options(self.command) if not self.path else [])]

    def option(self, name: str) -> TyperOption | None:
        return next((one for one in self.options() if name in (*one.opts, *one.secondary_opts)), None)

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
        for one in position.options():
            yield from (*one.opts, *one.secondary_opts)
        yield "--help"
    elif commands := getattr(position.command, "commands", {}):
        yield from (name for name, one in commands.items() if not one.hidden)
    else:
        yield from argument_values(position.subcommand, _metavar(position), position.home)


def _values(position: Position, option: str, typed: str) -> Iterator[str]:
    """Values of an option; the values of a setting only once its key is typed, those of a list after each comma."""
    before = typed[: typed.rfind(",") + 1] if option == "--ship" else ""
    for value in option_values(position.subcommand, option, position.home):
        if option != "--set" or ("=" in typed) == (not value.endswith("=")):
            yield before + value


def _metavar(position: Position) -> str:
    """Metavar of the next argument, '' if there is none; the last one may be repeated."""
    arguments = [one for one in position.command.params if not isinstance(one, TyperOption)]
    if not arguments or (position.arguments >= len(arguments) and arguments[-1].nargs == 1):
        return ""
    return str(arguments[min(position.arguments, len(arguments) - 1)].metavar or "")
