"""Batch scripts of runs: the resources of their jobs, and what the jobs execute."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from engine.config.errors import UserError
from engine.config.schema import Executor
from engine.executors.local import DEFAULT_ENVIRONMENT, ENVIRONMENT, worker_command

NAME = "job.sbatch"
LAUNCHER = [sys.executable, "-P", "-m", "engine.executors.slurm_job"]
MIN_WORK_SECONDS = 120
"""Time that a job needs at least, for imports, model and one step, before it is asked for a checkpoint."""
OPTIONS = {
    "partition": "partition",
    "time": "time",
    "gres": "gres",
    "cpus": "cpus-per-task",
    "memory": "mem",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
}
"""Preset key in `executor` -> option of sbatch."""
_VALUE = re.compile(r"[\w.,:;=@/+*&|!()\[\]-]+")
"""What options of sbatch contain. Without white space and quotes, so that a value cannot become another option."""

_SELECT = """\
runs=(
{runs}
)
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
cd "$run" || exit 1
exec >>engine.log 2>&1

"""
_BODY = """\
{exports}

# Starts the worker and passes on the signals of Slurm and of `ftbench stop`.
exec {launcher} {command}
"""


def script(run: Path, log_file: Path, settings: Executor) -> str:
    """The text of the batch script of one run. Raises UserError for values that sbatch could misread."""
    about = f"# The worker of one run as a job of Slurm; `ftbench resume {shlex.quote(run.name)}` submits it again."
    body = _body(settings, shlex.join(worker_command("engine", run)))
    return "\n".join([*_header(run, log_file, about, settings), "", body])


def array_script(folder: Path, runs: Sequence[Path], settings: Executor) -> str:
    """The text of the batch script of several runs, each a task of one job array. Raises as `script` does."""
    about = "# The runs of a ladder as tasks of a job array of Slurm; each writes to the engine.log in its directory."
    header = _header(folder, folder / "jobs.log", about, settings)
    header.append(f"#SBATCH --array=0-{len(runs) - 1}%{settings.max_jobs}")
    select = _SELECT.format(runs="\n".join(f"  {shlex.quote(str(run))}" for run in runs))
    command = f'{shlex.join(worker_command("engine", Path("run"))[:-1])} "$run"'
    return "\n".join([*header, "", select + _body(settings, command)])


def limit_seconds(limit: str) -> int | None:
    """Seconds of a time limit as sbatch reads it: 90, 90:00, 12:00:00, 2-0, 2-00:00, 2-00:00:00; None for others."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        return None
    days, *parts = (int(part) if part is not None else None for part in match.groups())
    first, second, third = (*parts, None, None)[:3]
    if days is not None:  # days-hours:minutes:seconds
        return ((days * 24 + (first or 0)) * 60 + (second or 0)) * 60 + (third or 0)
    if third is not None:  # hours:minutes:seconds
        return ((first or 0) * 60 + (second or 0)) * 60 + third
    return (first or 0) * 60 + (second or 0)  # minutes:seconds


def _check_limit(settings: Executor) -> None:
    """Raise UserError for a time limit in which no step could be trained: the job would be queued again forever."""
    seconds = limit_seconds(settings.time) if settings.time is not None else None
    if seconds is not None and seconds < settings.notice + MIN_WORK_SECONDS:
        what = (
            f"time limit {settings.time}: no time to train, because a checkpoint is saved {settings.notice} s before it"
        )
        do = f"set it to at least {(settings.notice + MIN_WORK_SECONDS + 59) // 60} minutes, or lower executor.notice"
        raise UserError(what, "executor.time", do, code="slurm.short_time_limit")


def _header(folder: Path, log_file: Path, about: str, settings: Executor) -> list[str]:
    _check_limit(settings)
    lines = [
        "#!/bin/bash",
        about,
        f"#SBATCH --job-name={_quoted(Path(folder.name))}",
        f"#SBATCH --chdir={_quoted(folder)}",
        f"#SBATCH --output={_quoted(log_file).replace('%', '%%')}",
        "#SBATCH --open-mode=append",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=1",
        "#SBATCH --requeue",
        f"#SBATCH --signal=B:USR1@{settings.notice}",
    ]
    for key, option in OPTIONS.items():
        value = getattr(settings, key)
        if value is None:
            continue
        if not _VALUE.fullmatch(str(value)):
            do = f"give it as `sbatch --{option}` expects it, without spaces and quotes"
            raise UserError(f"invalid value {value!r}", f"executor.{key}", do, code="slurm.invalid_option")
        lines.append(f"#SBATCH --{option}={value}")
    return lines


def _body(settings: Executor, command: str) -> str:
    exports = [f"export {name}={value}" for name, value in ENVIRONMENT.items()]
    exports += [f'export {name}="${{{name}:-{value}}}"' for name, value in DEFAULT_ENVIRONMENT.items()]
    if settings.cpus:
        exports.append(f"export OMP_NUM_THREADS={settings.cpus}")
    return _BODY.format(exports="\n".join(exports), launcher=shlex.join(LAUNCHER), command=command)


def _quoted(path: Path) -> str:
    """A path in double quotes. Raises UserError for characters that sbatch has no way to quote."""
    if re.search(r'["\\\n\r]', str(path)):
        what, do = (
            "unsupported path for Slurm: it contains quotes, backslashes or line breaks",
            "use another directory (--runs)",
        )
        raise UserError(what, str(path), do, code="slurm.path")
    return f'"{path}"'
