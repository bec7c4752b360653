"""Seconds per step, tokens per second and peak memory of ftbench and its peers, on the CPU or a GPU; prints a table.

    python tools/peers.py --workload banking77 --model DIR --data DIR --trl PYTHON --factory PYTHON

Every measurement is a new process (see `peers/`). The tools alternate, each round starts with another one, and the
table shows medians over the rounds. README.md in this folder describes how to create the peers' environments.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "peers"))

from table import OURS, Run, progress, report  # noqa: E402 - the path above makes it importable

UNSHARED = "ftbench, no shared prefixes"
PROGRAMS = {
    OURS: "with_ftbench.py",
    UNSHARED: "with_ftbench.py",
    "trl SFTTrainer": "with_trl.py",
    "transformers Trainer": "with_trainer.py",
    "LLaMA-Factory": "with_factory.py",
}
WORKLOADS = ("banking77", "banking77-labels", "wikisql")
MAX_LENGTH = {"banking77-labels": 1024}
"""Tokens of a row where 512 are too few."""
METHODS = ("qlora", "lora", "full")
RATES = {"qlora": 2e-4, "lora": 2e-4, "full": 2e-5}
SCORED = 8
"""Test rows for the tool that scores the model before and after."""


def main() -> int:
    """Measure, then print the table; 1 if any measurement failed."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the running tool is ended
    interpreters = tools(options)
    train, test = chosen_rows(options.workload, options.data, options.steps * options.batch)
    runs: list[Run] = []
    for method, number, tool in plan(options.methods, list(interpreters), options.rounds):
        runs.append(run := measure(options, method, number, tool, interpreters[tool], train, test))
        print(progress(run, options.warmup), file=sys.stderr, flush=True)
        if options.raw:
            with options.raw.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"workload": options.workload, **vars(run)}) + "\n")
    print("\n".join(report(options, list(interpreters), runs)))
    return int(any(run.error for run in runs))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--workload", choices=WORKLOADS, required=True)
    add("--model", type=Path, required=True, help="folder of safetensors")
    add("--data", type=Path, required=True, help="folder with train and test, .csv or .jsonl")
    add("--trl", metavar="PYTHON", help="interpreter with trl; trl is skipped without it")
    add("--factory", metavar="PYTHON", help="interpreter with LLaMA-Factory; it is skipped without it")
    add("--trainer", metavar="PYTHON", default=sys.executable, help="interpreter with transformers")
    add("--tools", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    add("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    add("--rounds", type=int, default=5)
    add("--steps", type=int, default=10)
    add("--warmup", type=int, default=2, help="first steps that are not counted")
    add("--batch", type=int, default=8, help="batch size, in one micro-batch")
    add("--max-length", type=int, help="default: 512; 1024 for banking77-labels, whose prompts have 574 tokens")
    add("--full-precision", choices=("fp32", "mixed"), default="fp32", help="precision of full fine-tuning")
    add(
        "--adapter-precision",
        choices=("bf16", "fp32"),
        default="bf16",
        help="of LoRA and QLoRA; fp32 for CPUs without bf16",
    )
    add("--autocast", action="store_true", help="LoRA and QLoRA of trl and Trainer under bf16 autocast")
    add("--gpu", action="store_true", help="on the first GPU, instead of the CPU")
    add("--timeout", type=float, default=1800, help="seconds for one measurement")
    add("--raw", type=Path, help="append every measurement to this JSONL file")
    options = parser.parse_args()
    if options.warmup >= options.steps:
        parser.error("--steps must be more than --warmup")
    options.max_length = options.max_length or MAX_LENGTH.get(options.workload, 512)
    options.model = options.model.expanduser().resolve()
    return options


def tools(options: argparse.Namespace) -> dict[str, str]:
    """Tool -> interpreter, of the selected tools with an interpreter."""
    interpreters = {
        OURS: sys.executable,
        UNSHARED: sys.executable,
        "trl SFTTrainer": options.trl,
        "transformers Trainer": options.trainer,
        "LLaMA-Factory": options.factory,
    }
    return {tool: python for tool, python in interpreters.items() if python and tool in options.tools}


def plan(methods: list[str], names: list[str], rounds: int) -> Iterator[tuple[str, int, str]]:
    """(method, round, tool) in the order of measurement."""
    for number in range(rounds):
        first = number % len(names)
        for method in methods:
            for tool in names[first:] + names[:first]:
                yield method, number, tool


def chosen_rows(workload: str, folder: Path, count: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """`count` distinct training rows spread evenly over the file, and SCORED test rows."""
    read = {"banking77": banking77, "banking77-labels": banking77_labels, "wikisql": wikisql}[workload]
    train, test = distinct(read(folder, "train")), distinct(read(folder, "test"))
    if len(train) < count:
        raise SystemExit(f"{folder} has {len(train)} distinct training rows, {count} are needed")
    stride = len(train) // count
    return train[::stride][:count], test[:SCORED]


def banking77(folder: Path, split: str) -> list[dict[str, str]]:
    """Banking77 rows; the columns are `text` and `category`."""
    with (folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        return [{"prompt": row["text"].strip(), "completion": row["category"]} for row in csv.DictReader(file)]


def banking77_labels(folder: Path, split: str) -> list[dict[str, str]]:
    """Banking77 rows that share a system prompt with all labels of the training file."""
    labels = sorted({row["completion"] for row in banking77(folder, "train")})
    system = f"Answer with the intent of the message, one of: {', '.join(labels)}."
    return [{**row, "system": system} for row in banking77(folder, split)]


def wikisql(folder: Path, split: str) -> list[dict[str, str]]:
    """WikiSQL rows, one `text` per line."""
    lines = (folder / f"{split}.jsonl").read_text("utf-8").splitlines()
    return [{"text": json.loads(line)["text"]} for line in lines]


def distinct(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Rows with distinct first columns, in order; the first one of equal rows."""
    by_first_column = {next(iter(row.values())): row for row in reversed(rows)}
    return list(reversed(by_first_column.values()))


def measure(
    options: argparse.Namespace,
    method: str,
    number: int,
    tool: str,
    python: str,
    train: list[dict[str, str]],
    test: list[dict[str, str]],
) -> Run:
    """One new process in a new folder."""
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        job = {
            "method": method,
            "workload": options.workload,
            "model": str(options.model),
            "folder": name,
            "answer": str(folder / "answer.json"),
            "steps": options.steps,
            "batch": options.batch,
            "max_length": options.max_length,
            "learning_rate": RATES[method],
            "max_grad_norm": 1.0,
            "rank": 16,
            "alpha": 32,
            "full_precision": options.full_precision,
            "adapter_precision": options.adapter_precision,
            "autocast": options.autocast,
            "gpu": options.gpu,
            "packing": "packed" if tool == UNSHARED else "auto",
            "rows": train,
            "test": test,
        }
        (folder / "job.json").write_text(json.dumps(job), "utf-8")
        program = HERE / "peers" / PROGRAMS[tool]
        error = execute([python, str(program), str(folder / "job.json")], folder, options.timeout, options.gpu)
        answer = folder / "answer.json"
        measured, error = answered(answer, error)
    return Run(method, tool, number, measured, error)


def answered(answer: Path, error: str) -> tuple[dict[str, Any] | None, str]:
    """(what a tool measured, '' or why there is nothing)."""
    if error:
        return None, error
    try:
        measured: dict[str, Any] = json.loads(answer.read_text("utf-8"))
    except (OSError, ValueError) as problem:
        return None, f"no measurement: {problem}"
    return measured, ""


def execute(command: list[str], folder: Path, timeout: float, gpu: bool) -> str:
    """Run to the end; '' or the reason of the failure. No network, torch's default number of threads."""
    environment = {
        **os.environ,
        **({} if gpu else {"CUDA_VISIBLE_DEVICES": ""}),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with (folder / "log").open("w+", encoding="utf-8", errors="replace") as log:
        try:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as problem:
            return f"cannot be started: {problem}"
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"not finished after {timeout:.0f} s"
        finally:
            end(process)
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()]
    return "" if status == 0 else f"exit {status}: {lines[-1][:300] if lines else 'no output'}"


def end(process: subprocess.Popen[bytes], seconds: float = 60.0) -> None:
    """End the process group: SIGTERM first, SIGKILL after a timeout."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, sent)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


if __name__ == "__main__":
    sys.exit(main())
