"""Every subcommand in a real terminal with hostile text in every source: all of it is shown as text."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import MICRO
from hostile import MARK, arrived, strings
from hostile_home import Home, hostile_home
from screen import Terminal
from subcommands import subcommands

from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir

SOURCES = ("f", "r", "p", "s", "m", "e", "l", "n", "a")
TYPED = " ".join(strings("a")).replace("\x00", "")
"""All hostile strings as one argument."""


def cases(home: Home) -> dict[str, list[list[str]]]:
    """Subcommand -> command lines; `test_every_subcommand_has_a_case` asserts that every subcommand has one."""
    run, ladder, file = str(home.died.path), str(home.ladder.path), str(sorted(home.data.iterdir())[1])
    model, broken, preset = str(home.model), str(home.broken), str(home.preset)
    return {
        "demo": [["--runs", file], ["--seeds", TYPED]],
        "ladder": [[TYPED], [preset], ["demo", "--rung", TYPED], ["demo", "--set", f"{TYPED}=1"],
                   ["demo", "--ship", TYPED], ["demo", "--model", broken, "--data", str(home.data), "--no-probe"]],
        "judge": [[TYPED, "--judge", "http://127.0.0.1:9/v1#x"], [ladder, "--judge", TYPED],
                  [ladder, "--judge", f"http://127.0.0.1:9/v1#{TYPED}"],
                  [ladder, "--judge", "http://127.0.0.1:9/v1#x", "--pair", TYPED]],
        "rate": [[TYPED, "--json"], [ladder, "--rater", TYPED, "--json"], [ladder, "--import", f"{TYPED}/x"],
                 [ladder, "--json"]],
        "check": [[f"http://127.0.0.1:9/v1#{TYPED}", "--run", run], [TYPED],
                  ["http://127.0.0.1:9/v1#x", "--run", TYPED]],
        "compare": [[TYPED, run], [file, run], [run, ladder], [f"{TYPED}={file}", f"b={file}", "--key", TYPED]],
        "report": [[ladder], [ladder, "--markdown"], [ladder, "--json"], [TYPED]],
        "run": [[TYPED], [preset], ["demo-lora", "--set", f"train.steps={TYPED}"], ["demo-lora", "--method", TYPED],
                ["demo-lora", "--from", TYPED], ["demo-lora", "--from", run],
                ["demo-lora", *MICRO, "--model", model, "--data", file]],
        "attach": [[run], [ladder], [TYPED], [ladder, "--json"]],
        "stop": [[TYPED], [run]],
        "resume": [[TYPED], [str(home.folder / "none")]],
        "runs": [[], ["--json"], ["--runs", file]],
        "gate": [[TYPED], [run, "--against", TYPED], [ladder, "--rung", TYPED], [run, "--metric", TYPED]],
        "export": [[TYPED], [run], [run, "--out", f"{TYPED}/x"], [run, "--to", TYPED], [run, "--type", TYPED],
                   [run, "--push", TYPED]],
        "try": [[TYPED, "--prompt", "x"], [run, "--prompt", TYPED], [ladder, "--prompt", TYPED]],
        "plan": [["demo-lora", "--model", broken, "--quick"],
                 ["demo-lora", "--quick", "--gpu", TYPED], ["--history"],
                 ["demo-lora", "--method", "lora", "--model", model, "--data", file]],
        "pull": [[TYPED], []],
        "schema": [[TYPED]],
        "queue": [[], [TYPED]],
        "monitor": [["--json"], [TYPED]],
        "home": [["--json"], [TYPED], [file]],
        "clean": [["--json"], [TYPED], ["runs", "--run", TYPED], ["checkpoints", "--yes"], ["--runs", file],
                  ["temporary", "--yes"]],
        "track": [[TYPED], [run, "--to", TYPED], [run, "--to", "tensorboard"]],
        "doctor": [["--runs", file], ["--train", "--device", TYPED]],
        "data check": [[file, "--model", model], [TYPED], [file, "--model", broken]],
        "data show": [[str(home.data)], [file, "--split", TYPED], [file, "--preset", TYPED]],
        "presets list": [[], ["--json"]],
        "presets show": [[TYPED], ["h00"], ["h04"], ["demo-lora", "--set", f"{TYPED}=1"], ["h00", "--json"]],
        "presets new": [[TYPED], ["mine", "--from", TYPED], ["mine", "--from", "h00"]],
        "presets import": [[TYPED], [file], [file, "--name", TYPED]],
    }  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = hostile_home(tmp_path_factory.mktemp("home"))
    temporary = home.died.path / f".{TYPED.replace('/', '')[:60]}.tmp"
    temporary.write_text("left behind")
    yield home
    for folder in (*RunDir.iterate(home.runs), *LadderDir.iterate(home.runs)):
        if pid := folder.pid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def shown_by(home: Home, *arguments: str) -> bytes:
    """All bytes that a command writes to its terminal."""
    env = home.env | {"HF_HUB_OFFLINE": "1"}
    if arguments[0] == "home":  # it refuses a home where the environment sets the runs, before it looks at the folder
        env |= {"FTBENCH_RUNS": ""}
    terminal = Terminal(*arguments, cwd=home.folder, env=env, forked=True)
    try:
        terminal.leave(180)
    finally:
        terminal.process.kill()
        terminal.process.wait()
    return terminal.bytes


def test_every_subcommand_has_a_case(home: Home) -> None:
    assert sorted(cases(home)) == sorted(subcommands())


@pytest.mark.parametrize("name", subcommands())
def test_a_subcommand_shows_hostile_text_as_text(name: str, home: Home) -> None:
    shown = {}
    for arguments in cases(home)[name]:
        shown[tuple(arguments)] = shown_by(home, *name.split(), *arguments)
    assert {arguments: arrived(text, SOURCES) for arguments, text in shown.items() if arrived(text, SOURCES)} == {}
    assert any(MARK.encode() in text for text in shown.values()), shown
    assert not any(b"Traceback" in text for text in shown.values()), shown


def test_a_very_long_log_line_is_truncated_with_the_number_of_characters(home: Home) -> None:
    shown = shown_by(home, "attach", str(home.died.path)).decode()
    assert max(map(len, shown.splitlines())) < 5 * 4000  # every character can be an escape
    assert re.search(r" … \[[\d,]+ more characters", shown)


def test_a_traceback_shows_hostile_text_as_text() -> None:
    """Also for unexpected exceptions, the output on stderr is text."""
    code = "from tui.cli.errors import handle_errors\ndef f(): raise LookupError('\\x1b[2J\\u202e')\nhandle_errors(f)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert b"LookupError" in done.stderr and arrived(done.stderr) == []


WAYS = [
    "print(text)",
    "import sys; sys.stderr.write(text)",
    "import typer; typer.echo(text)",
    "import typer; typer.secho(text, fg='red', err=True)",
    "from tui.output.console import say; say(text)",
    "from tui.output.console import table; table(text, ('a', text), [(text, text)])",
    "from tui.output.console import console; console.print(text)",
    "from tui.output.console import console; from rich.panel import Panel; from rich.text import Text; "
    "console.print(Panel(Text(text), title=Text(text)))",
    "from tui.output.console import console; from rich.table import Table; from rich.text import Text; "
    "t = Table(title=Text(text)); t.add_column(Text(text)); t.add_row(Text(text)); console.print(t)",
    "from tui.output.console import console\nfrom rich.progress import Progress\n"
    "with Progress(console=console) as p: p.add_task(text.replace('[', '('), total=1); print(text)",
    "from tui.output import streams; streams.write(text); streams.write_error(text); streams.write_help(text)",
]
"""Of writing a text, including those that the linter forbids."""
EACH_WAY = """
import json, os, sys
from tui.cli.errors import handle_errors

text, ways = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for number, code in enumerate(ways):
    if not (child := os.fork()):
        handle_errors(lambda: exec(code, globals()))
        sys.exit()
    os.waitpid(child, 0)
    os.write(1, f"<end of way {number}>".encode())
"""


def test_every_way_of_writing_output_escapes(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(EACH_WAY)
    given = [json.dumps(" ".join(strings("a"))), json.dumps(WAYS)]
    terminal = Terminal(str(program), *given, cwd=tmp_path, program=sys.executable)
    terminal.leave(60)
    rest = terminal.bytes
    for number, code in enumerate(WAYS):
        shown, end, rest = rest.partition(f"<end of way {number}>".encode())
        assert end and f"{MARK}_a".encode() in shown and arrived(shown, ["a"]) == [], code


def test_the_linter_reports_output_outside_of_tui_output() -> None:
    code = (
        "import sys\nimport typer\nfrom rich.console import Console\nprint(1)\nsys.stdout.write('')\ntyper.echo('')\n"
    )
    code += "Console().print('')\nsys.stderr.flush()\n"
    ruff = [str(Path(sys.executable).with_name("ruff")), "check", "--output-format", "concise", "--stdin-filename"]
    root = Path(__file__).parent.parent.parent

    def offenses(name: str) -> list[str]:
        done = subprocess.run([*ruff, name, "-"], input=code, capture_output=True, text=True, cwd=root)
        return [line.split()[1] for line in done.stdout.splitlines() if "TID251" in line or "T201" in line]

    assert len(offenses("tui/cli/new.py")) >= 5
    assert offenses("tui/output/new.py") == []
