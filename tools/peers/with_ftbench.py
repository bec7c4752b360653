"""ftbench's worker, by `ftbench run`; measurements are read from the run directory."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import tomli_w
import torch
from measure import Job, Measurement, main

from engine.runs.run.events import ModelLoaded, Step, decode
from engine.runs.run.run_dir import RunDir
from engine.training.batches import BatchSampler


def train(job: Job) -> Measurement:
    """One run, from the preset to result.json."""
    folder = Path(job.folder)
    write_rows(job, folder / "rows")
    preset = folder / "bench.toml"
    preset.write_text(tomli_w.dumps(settings(job)), "utf-8")
    command = [Path(sys.executable).with_name("ftbench"), "run", preset, "--model", job.model]
    command += ["--data", folder / "rows", "--runs", folder / "runs", "--now", "--json"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    finally:
        end_worker(folder / "runs")
    if done.returncode:
        raise RuntimeError(f"ftbench run: {' '.join((done.stdout + done.stderr).split())[-400:]}")
    return read(next((folder / "runs").iterdir()), "reserved_training" if job.gpu else "rss_training")


def end_worker(runs: Path) -> None:
    """The worker survives the command by design; it must not survive a canceled measurement."""
    for folder in runs.glob("*"):
        if (pid := RunDir(folder).pid()) is not None:
            os.kill(pid, signal.SIGKILL)


def settings(job: Job) -> dict[str, Any]:
    """A preset with all settings fixed and as little evaluation as possible."""
    chosen: dict[str, Any] = {
        "method": job.method,
        "data": {"validation": 0.0},
        "train": {
            "steps": job.steps,
            "batch": job.batch,
            "micro_batch": job.batch,
            "learning_rate": job.learning_rate,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "max_grad_norm": job.max_grad_norm,
            "max_length": job.max_length,
            "gradient_checkpointing": False,
            "packing": job.packing,
            "checkpoint_every": 1_000_000,
        },
        "optimizer": {"name": "adamw"},
        "evaluation": {"metric": "loss", "rows": len(job.test)},
    }
    if job.method == "full":
        chosen["train"]["precision"] = job.full_precision
    else:
        chosen["train"]["precision"] = job.adapter_precision
        chosen["adapter"] = {"rank": job.rank, "alpha": float(job.alpha)}
    if job.instructs:
        chosen["data"]["map"] = {"prompt": "text", "completion": "category"}
        if job.system:
            chosen["data"]["map"]["system"] = job.system.replace("{", "{{").replace("}", "}}")
    return chosen


def write_rows(job: Job, folder: Path) -> None:
    """Train and test files, ordered so that the worker's permutation restores the job's order."""
    folder.mkdir()
    sampler = BatchSampler.of(len(job.rows), job.batch, 1.0, job.steps, 0)
    places = [place for step in range(sampler.per_epoch) for place in sampler.indices(step)]
    ordered: list[dict[str, str]] = [{}] * len(job.rows)
    for row, place in zip(job.rows, places, strict=True):
        ordered[place] = row
    for name, rows in (("train", ordered), ("test", job.test)):
        if job.instructs:
            write_csv(folder / f"{name}.csv", rows)
        else:
            write_jsonl(folder / f"{name}.jsonl", rows)


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    """Rows with the columns of Banking77."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        writer.writerows([row["prompt"], row["completion"]] for row in rows)


def write_jsonl(path: Path, rows: list[dict[str, str]]) -> None:
    """Rows with one `text` per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def read(run: Path, peak: str) -> Measurement:
    """Measurements from step events, with times between events as for the peers, and memory from the result's `peak`.

    The worker does not change torch's number of threads, so it is the same here.
    """
    events = list(filter(None, map(decode, (run / "events.jsonl").read_bytes().splitlines())))
    steps = [event for event in events if isinstance(event, Step)]
    model = next(event for event in events if isinstance(event, ModelLoaded))
    result = json.loads((run / "result.json").read_text("utf-8"))
    return Measurement(
        seconds=[steps[0].seconds, *(after.t - before.t for before, after in pairwise(steps))],
        tokens=[step.tokens for step in steps],
        answer_tokens=[step.answer_tokens for step in steps],
        losses=[step.loss if step.loss is not None else float("nan") for step in steps],
        peak_training=result["peak"][peak],
        peak_process=result["peak"]["rss"],
        dtype=model.dtype if result["method"] == "full" else f"float32 over {model.dtype}",
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main(train)
