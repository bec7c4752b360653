"""`doctor --bundle`: one archive with what a bug report needs, without secrets, data rows or answers.

A run's directory cannot be sent as it is: events and predictions quote rows and answers, and configurations can contain
tokens. Which files and fields leave the machine is decided here only.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from engine import __version__
from engine.config.errors import RunFailed, UserError
from engine.config.files import open_regular, write_atomically
from engine.config.home import config_file
from engine.config.redaction import SECRET_NAME, Redactor, secrets_of_this_machine
from engine.hardware.box import BoxCheck
from engine.runs.home import tilde
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.folder import sort_by_start
from engine.runs.run.run_dir import RunDir
from tui.output.console import print_json, say

RUNS, LADDERS = 3, 1
"""The latest ones, whose files are included."""
MAX_FILE = 1 << 20
"""Bytes of a file; of a longer one the end is included."""
VARIABLES = (
    "CUDA", "NVIDIA", "PYTORCH", "TORCH", "HF_", "TRANSFORMERS", "FTBENCH", "XDG_", "OMP_", "MKL_", "SLURM_", "WANDB",
    "TRACKIO", "TERM", "COLORTERM", "LANG", "LC_", "NO_COLOR", "TMUX", "MALLOC_", "TOKENIZERS", "BNB_", "BITSANDBYTES",
)  # fmt: skip
"""First letters of the environment variables that are included."""
CONTENT = ("examples", "prompt", "target", "output", "references", "base", "tuned")
"""Fields of events and ladders that contain text of the data."""
README = """\
Support bundle of ftbench {version}, written by `ftbench doctor --bundle` on {date}.

It contains the checks of `ftbench doctor`, library versions, environment variables of ftbench and its libraries,
config.toml, and of the latest {runs} runs and the latest ladder: configuration, events, result and log.

It contains no data rows, prompts or answers. Passwords, tokens and keys were replaced by [redacted] ({count} times),
and the home directory by ~. Names of files and models, warnings and errors are included, and can quote a value of the
data: read the files before you send them.
"""


def write_bundle(runs: Path, check: Callable[[Path], list[BoxCheck]], out: Path | None, as_json: bool) -> None:
    """Write the archive, with what `check` finds on this machine, and print its path and content.

    Raises UserError where the file exists or cannot be written.
    """
    path = out or Path(f"ftbench-support-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz")
    if os.path.lexists(path):
        raise UserError("the file exists", str(path), "choose another name", code="bundle.exists")
    hint = "choose another file with --out"
    if not os.access(path.parent, os.W_OK | os.X_OK):  # known before the checks take their seconds
        raise UserError("cannot write to the folder", str(path.parent), hint, code="bundle.not_writable")
    redact = Redactor(secrets_of_this_machine())
    home = os.path.expanduser("~")  # noqa: PTH111 - as in `tilde`
    files = {}
    for name, text in _files(runs, check):
        files[name] = redact(text.replace(f"{home}/", f"{tilde(home)}/") if len(home) > 1 else text)
    about = {"version": __version__, "date": time.strftime("%Y-%m-%d"), "runs": RUNS, "count": redact.count}
    files["README.txt"] = README.format(**about)
    if any(redact.leaks(text) for text in files.values()):  # cannot happen; never write it if it does
        raise RunFailed("a secret was found in the bundle; nothing was written", "bundle.leak")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in sorted(files.items()):
            content = text.encode("utf-8", "surrogateescape")
            entry = tarfile.TarInfo(f"ftbench-support/{name}")
            entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    try:
        write_atomically(path, buffer.getvalue())
    except OSError as error:
        raise UserError(f"cannot write: {error.strerror}", str(path), hint, code="bundle.not_writable") from error
    if as_json:
        print_json({"bundle": str(path.absolute()), "files": sorted(files), "redacted": redact.count})
        return
    say(f"{path}: {len(files)} files, {path.stat().st_size / 1024:,.0f} KiB; {redact.count} secrets redacted")
    say("It contains no data rows, prompts or answers. Read it before you send it: warnings can quote values.")


def _files(runs: Path, check: Callable[[Path], list[BoxCheck]]) -> Iterator[tuple[str, str]]:
    """Name and text of each file, before redaction."""
    yield "doctor.json", json.dumps(msgspec.to_builtins(check(runs)), indent=1)
    described = [distribution.metadata for distribution in metadata.distributions()]  # read and parsed at each access
    packages = {f"{fields['Name']} {fields['Version']}" for fields in described}
    system = {
        "ftbench": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "environment": {
            name: "[redacted]" if SECRET_NAME.search(name) else value
            for name, value in sorted(os.environ.items())
            if name.startswith(VARIABLES)
        },
        "packages": sorted(packages, key=str.lower),
    }
    yield "system.json", json.dumps(system, indent=1)
    yield "config.toml", _text(config_file())
    for run in sort_by_start(RunDir.iterate(runs))[-RUNS:]:
        for file in (run.config_file, run.result_file, run.log_file, *sorted(run.path.glob("tracking/*.log"))):
            yield f"runs/{run.name}/{file.relative_to(run.path)}", _text(file)
        lines = _text(run.events_file).splitlines()
        yield f"runs/{run.name}/events.jsonl", "\n".join(map(_without_content, lines))
    for ladder in sort_by_start(LadderDir.iterate(runs))[-LADDERS:]:
        folder = f"ladders/{ladder.name}"
        yield f"{folder}/ladder.toml", _text(ladder.plan_file)
        yield f"{folder}/ladder.json", _without_content(_text(ladder.state_file))
        yield f"{folder}/engine.log", _text(ladder.log_file)


def _without_content(text: str) -> str:
    """JSON without the fields that contain text of the data; '' for what is no JSON, as the end of a killed log."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    return json.dumps(_stripped(value))


def _stripped(value: Any) -> Any:
    if isinstance(value, list):
        return [_stripped(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: "[data]" if key in CONTENT and not isinstance(item, bool | int | float | None) else _stripped(item)
        for key, item in value.items()
    }


def _text(path: Path) -> str:
    """The end of a file as text, '' where it is missing or cannot be read."""
    with contextlib.suppress(OSError), open_regular(path) as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - MAX_FILE))
        return file.read().decode("utf-8", "replace")
    return ""
