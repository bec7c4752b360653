"""Finished ladders on disk without training, written by the functions that real ladders use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from made_runs import BEGIN, GIB, HOSTILE, ITEMS, METHODS, STEPS, write_events, write_predictions

from engine.config.metric_specs import metric_spec
from engine.config.preset import Preset, resolve
from engine.ladder.decisions import Decisions
from engine.ladder.recommendation import summarize_ladder
from engine.ladder.sentences import ON_CPU
from engine.runs.ladder.ladder_dir import LadderDir, create
from engine.runs.ladder.ladder_state import Ladder, LadderEntry, LadderPlan, Rung, RungDuration, SharedWork
from engine.runs.ladder.rung_results import Comparison, RungResult, SeedRange, VerdictSentence
from engine.runs.run import run_dir
from engine.runs.run.result import Interval, MeasuredPeak


def made_ladder(
    runs: Path,
    seeds: Sequence[int] = (0, 1, 2),
    hostile: bool = False,
    gpu: bool = False,
    metric: str = "exact_match",
    without: Sequence[str] = (),
) -> tuple[LadderDir, Ladder]:
    """A finished ladder of the three methods; the rungs in `without` ran out of memory."""
    config = {method: resolve(Preset("demo-lora", {}), method).config for method in METHODS}
    plan = LadderPlan(
        preset="demo-lora",
        created=BEGIN,
        rungs=[Rung(name=method, config=config[method]) for method in METHODS],
        seeds=list(seeds),
        command="ftbench ladder demo-lora --seeds 3 --data 'my mails.csv'",
    )
    directory = create(runs, plan)
    entries = [_entry(runs, method, seed, hostile, gpu, metric) for method in METHODS for seed in seeds]
    rates = [_trial(m, n, r) for n, m in enumerate(METHODS) for r in (1e-4, 5e-4, 2e-3)]
    rows = [_row(m, seeds, entries, gpu, metric, m in without) for m in ("base", *METHODS)]
    name = HOSTILE[0] if hostile else "tickets"
    ladder = Ladder(
        name=directory.name,
        preset="demo-lora",
        command=plan.command,
        created=BEGIN,
        status="finished",
        stage="done",
        seeds=list(seeds),
        work=SharedWork(
            model="tiny",
            data=name,
            train=1600,
            validation=128,
            test=ITEMS,
            tokens=136_516,
            steps=STEPS,
            batch=16,
            metric=metric,
            fingerprints={"data": "877022f9" * 8, "model": f"sha256 {'eacd99bd' * 8}"},
        ),
        estimates=[RungDuration(rung=m, low=40, high=80, step_seconds=0.4, steps_measured=6) for m in METHODS],
        entries=[*rates, *entries],
        rows=rows,
        comparisons=[
            _comparison("full", "qlora", 0.041, 0.012),
            _comparison("full", "lora", 0.029, 0.11),
            _comparison("qlora", "lora", -0.012, 0.62),
            *(_comparison(method, "base", METHODS[method][0] - 0.021, 0.0001) for method in METHODS),
        ],
        verdict=[
            VerdictSentence(
                topic="quality",
                text="QLoRA scores 57.1%, 93.3% of full's 61.2%, and keeps 92.9% of full's gain over the base model.",
            ),
            VerdictSentence(topic="time", text="QLoRA's training time is 1.11× full's: 1:01 vs. 55.0 s."),
            VerdictSentence(
                topic="ship",
                text="Ship LoRA (1.10 MiB artifact): no method has a significant lead, and it is the cheapest.",
            ),
            VerdictSentence(topic="caveat", text=ON_CPU),
        ],
        differs={
            "train.learning_rate": {"qlora": 5e-3, "lora": 5e-3, "full": 1e-3},
            "optimizer.name": {"qlora": "paged_adamw_8bit", "lora": "adamw", "full": "paged_adamw_8bit"},
            "adapter.rank": {"qlora": 16, "lora": 16},
        },
        config={"model.id": "tiny", "data.id": name, "train.batch": 16, "data.map": {"prompt": "Q: {question}"}},
        versions={"python": "3.11.7", "torch": "2.13.0+cpu", "peft": "0.21.2"},
        machine={"device": "2 CPU cores", "cpu": "Some Processor", "threads": 2, "memory": 24 * GIB},
        warnings=["paged optimizer state needs CUDA unified memory: 8-bit AdamW without paging is used here"],
    )
    ladder.summary = summarize_ladder(ladder, Decisions(ladder))
    ladder.recommended = ladder.summary.ship if ladder.summary else ""
    directory.write_state(ladder)
    return directory, ladder


def _trial(method: str, number: int, rate: float) -> LadderEntry:
    loss = 0.5 + abs(math.log10(rate) + 3.3 + 0.2 * number) / 9
    entry = LadderEntry(rung=method, kind="trial", seed=0, learning_rate=rate, status="finished", validation_loss=loss)
    entry.chosen, entry.seconds = rate == 5e-4, 30.0
    return entry


def _entry(runs: Path, method: str, seed: int, hostile: bool, gpu: bool, metric: str) -> LadderEntry:
    overrides: dict[str, Any] = {"train.seed": seed, "train.learning_rate": 5e-4}
    run = run_dir.create(runs, "demo-lora", resolve(Preset("demo-lora", {}), method, overrides))
    write_events(run, method, seed, gpu)
    write_predictions(run, method, seed, hostile, base=method == "qlora", metric=metric)
    return LadderEntry(
        rung=method,
        kind="run",
        seed=seed,
        learning_rate=5e-4,
        run=run.name,
        status="finished",
        validation_loss=METHODS[method][2],
        seconds=METHODS[method][1] + 20,
        reused=seed == 0,
    )


def _row(
    method: str, seeds: Sequence[int], entries: Sequence[LadderEntry], gpu: bool, metric: str, failed: bool
) -> RungResult:
    if method == "base":
        return RungResult(
            name="base",
            method="base",
            status="finished",
            runs=[entry.run for entry in entries if entry.rung == "qlora"][:1],  # the run that scored the base model
            score=_interval(0.021, 0.008),
            loss=_interval(3.635, 0.06),
            general_loss=_interval(4.1, 0.05),
            extra={"valid": 0.14},
        )
    if failed:
        return RungResult(
            name=method,
            method=method,
            status="out_of_memory",
            reason="not one row fits: the GPU has 2.0 GiB, 1.9 GiB are in use",
            learning_rate=5e-4,
        )
    score, seconds, loss = METHODS[method]
    if metric_spec(metric).is_loss:
        score = loss
    peak = {"qlora": 1.23, "lora": 1.42, "full": 2.01}[method]
    scale = int(peak * GIB)
    return RungResult(
        name=method,
        method=method,
        status="finished",
        learning_rate=5e-4,
        seeds=list(seeds),
        runs=[e.run for e in entries if e.rung == method],
        score=_interval(score, 0.025),
        by_seed=[score + 0.004 * (s - 1) for s in seeds],
        extra={"valid": 1.0},
        loss=_interval(loss, 0.02),
        share_of_gain=_interval((score - 0.021) / 0.591, 0.06),
        peak=MeasuredPeak(
            rss=scale,
            rss_training=scale - (80 << 20),
            allocated=scale if gpu else None,
            reserved=int(scale * 1.2) if gpu else None,
            allocated_training=int(scale * 0.9) if gpu else None,
            reserved_training=int(scale * 1.1) if gpu else None,
            nvml_used=int(scale * 1.3) if gpu else None,
        ),
        training_seconds=_spread(seconds),
        all_seconds=_spread(seconds + 20),
        tokens_per_second=_spread(160_000 / seconds),
        energy=_spread(seconds * 310) if gpu else None,
        money=_spread(seconds * 1.9 / 3600) if gpu else None,
        trainable=3_541_248 if method == "full" else 286_720,
        parameters=3_541_248,
        artifact_bytes=7_100_000 if method == "full" else 1_154_064,
        general_loss=_interval(4.2, 0.05),
        forgetting=_interval(0.1 if method != "full" else 0.35, 0.02),
    )


def _interval(mean: float, half: float) -> Interval:
    return Interval(mean=mean, low=mean - half, high=mean + half, rows=ITEMS)


def _spread(mean: float) -> SeedRange:
    return SeedRange(mean=mean, low=mean * 0.97, high=mean * 1.04)


def _comparison(a: str, b: str, difference: float, p: float) -> Comparison:
    return Comparison(
        a=a,
        b=b,
        difference=_interval(difference, 0.028 if p < 0.02 else 0.034),  # which excludes 0 if p is small
        p_adjusted=min(1.0, p * 2.5),
        finding="better" if p < 0.02 else "undecided",
        needed_items=None if p < 0.02 else int(300 / p),
        loss_difference=_interval(-difference, 0.01),
    )
