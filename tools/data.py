"""Time and memory of preparing short chat rows with ftbench and with trl, alternating on the same rows.

    python tools/data.py [--rows 100000] [--rounds 3] [--model smollm2-135m] [--only ftbench]

Rows have one user and one assistant message of 20 to 60 tokens together. trl gets them as `prompt` and `completion`
messages, because SmolLM2's chat template has no `{% generation %}` blocks, without which trl refuses
`assistant_only_loss`; the labels are on the answers in both. ftbench's first preparation of each round has an empty
cache, the second one uses it. Times and CPU times cover reading and preparing; `process` is the time of the complete
process, including imports and tokenizer. CPU time is that of all processes, and depends less on other work on the
machine. Memory is the highest sum of the proportional set sizes (PSS) of all processes, read four times per second.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from engine.config.schema import Model
from engine.methods.model_source import locate

PROGRAMS = Path(__file__).parent / "data_peers"
ROOT = Path(__file__).parents[1]
TEXT = (
    "the card bank money transfer account please how can I find my order status change address when will it arrive "
    "refund payment declined today why is this not working with app phone email number help need new update limit fee "
    "charge abroad cash top up pending balance don't café 42 1984 okay, well: (maybe) answer because first then"
)
WORDS = TEXT.split()


@dataclass(frozen=True)
class Measured:
    """One preparation in a new process."""

    seconds: float
    process: float
    cpu: float
    memory: int
    rows: int


def messages(rows: int, seed: int) -> Iterator[tuple[str, str]]:
    """Distinct (question, answer) pairs."""
    rng = random.Random(seed)
    for number in range(rows):
        question = " ".join(rng.choices(WORDS, k=rng.randint(10, 25)))
        yield f"{question} {number}?", " ".join(rng.choices(WORDS, k=rng.randint(8, 22))) + "."


def write(folder: Path, rows: int, seed: int) -> dict[str, Path]:
    """Write the same rows in the format of each tool."""
    files = {name: folder / f"{name}.jsonl" for name in ("ftbench", "trl")}
    with files["ftbench"].open("w") as ours, files["trl"].open("w") as theirs:
        for question, answer in messages(rows, seed):
            prompt, reply = {"role": "user", "content": question}, {"role": "assistant", "content": answer}
            ours.write(json.dumps({"messages": [prompt, reply]}) + "\n")
            theirs.write(json.dumps({"prompt": [prompt], "completion": [reply]}) + "\n")
    return files


def measure(tool: str, file: Path, model: str, cache: Path) -> Measured:
    """Run a program of `data_peers` and sample the memory of its processes."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(PROGRAMS / f"with_{tool}.py"), str(file), model]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.25)
    took = time.perf_counter() - started
    assert process.stdout
    output = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"{tool} failed: {' '.join(command)}")
    report = json.loads(output[-1])
    return Measured(report["seconds"], took, report["cpu"], peak, report["rows"])


def memory_of(pid: int) -> int:
    """Sum of the proportional set sizes of a process and its children, bytes."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += next((int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:")), 0)
    return total


def table(measurements: dict[str, list[Measured]]) -> None:
    print("| | prepared in | whole process | CPU time | peak PSS | rows/s |\n|---|---|---|---|---|---|")
    for name, each in measurements.items():
        seconds, process, cpu = (
            [getattr(measurement, key) for measurement in each] for key in ("seconds", "process", "cpu")
        )
        memory = max(measurement.memory for measurement in each) >> 20
        middle = statistics.median(seconds)
        print(
            f"| {name} | {spread(seconds)} | {spread(process)} | {spread(cpu)} | {memory:,} MiB | "
            f"{each[0].rows / middle:,.0f} |"
        )
    if "trl" in measurements:
        for key, quantity in (("seconds", "time"), ("cpu", "CPU time")):
            ours, theirs = (
                statistics.median(getattr(measurement, key) for measurement in measurements[name])
                for name in ("ftbench", "trl")
            )
            print(f"\nratio of medians, trl to ftbench, {quantity}: {theirs / ours:.1f} x")


def spread(values: list[float]) -> str:
    shown = f"{statistics.median(values):.1f} s"
    return f"{shown} ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--only", choices=["ftbench", "trl"])
    options = parser.parse_args()
    model = str(locate(Model(id=options.model)).source)  # a folder: pulled models are not found with another cache
    tools = [options.only] if options.only else ["ftbench", "trl"]
    measurements: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.rounds):
            files = write(Path(folder), options.rows, number)
            for tool in tools if number % 2 == 0 else tools[::-1]:
                cache = Path(folder) / f"cache-{number}"
                for name in (tool, *(["ftbench, from the cache"] if tool == "ftbench" else [])):
                    measurements.setdefault(name, []).append(measure(tool, files[tool], model, cache))
                    print(
                        f"round {number + 1}: {name} {measurements[name][-1].seconds:.1f} s",
                        file=sys.stderr,
                        flush=True,
                    )
    print(f"{options.rows:,} rows, {options.rounds} rounds, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    table(measurements)


if __name__ == "__main__":
    main()
