"""Create events, results and predictions of a run as a worker writes them, without training."""

from __future__ import annotations

import math
import random
from typing import Any

import msgspec

from engine.runs.run import events, run_dir
from engine.runs.run.run_dir import RunDir

BEGIN = 1_795_600_000.0
ITEMS = 40
STEPS = 120
GIB = 1 << 30
METHODS = {"qlora": (0.571, 61.0, 0.47), "lora": (0.583, 48.0, 0.45), "full": (0.612, 55.0, 0.41)}
"""Score, training time in seconds, held-out loss."""
HOSTILE = [
    "<script>document.title = 'ran'; console.log('ran')</script>",
    "</pre></style></script><img src=x onerror=\"console.error('ran')\">",
    "{{ 7*7 }} {% raw %} ${7*7}",
    "\x1b[31mred\x1b[0m \x1b]52;c;aGk=\x07 \x00 \x9b2J",
    "abc\u202edcba\u2066x\u2069 \u200bhidden",
    "| a | b |\n|---|---|\n```\n# head\n``` ![i](http://example.invalid/i.png) <b>&amp;</b>",
    "x" * 100_000,
    "שלום עולם\nline two\r\n\ttabbed",
]
"""Texts that contain markup, terminal control sequences or bidirectional control characters."""


def step(
    number: int, loss: float | None = 1.0, steps: int = 100, seconds: float = 0.5, tokens_per_second: float = 200.0
) -> events.Step:
    """One step of a run, at its own second."""
    return events.Step(
        step=number,
        steps=steps,
        epoch=0.0,
        loss=loss,
        learning_rate=1e-3,
        grad_norm=None,
        tokens=100,
        answer_tokens=10,
        tokens_per_second=tokens_per_second,
        seconds=seconds,
        t=1000.0 + number,
    )


def write_events(run: RunDir, method: str, seed: int, gpu: bool = False, diverged: bool = False) -> None:
    """Waiting, baseline, training with a memory sample per step, evaluation. `diverged`: no loss in the second half."""
    chance = random.Random(f"{method}{seed}")
    _, seconds, final = METHODS[method]
    clock = BEGIN
    log: list[events.Event] = []

    def say(event: events.Event, after: float = 0.0) -> None:
        nonlocal clock
        clock += after
        event.t, event.seq = clock, len(log) + 1
        log.append(event)

    say(events.Hello(pid=1, host="box", version="0.1.0"))
    say(events.Phase(name="waiting"), 1)
    say(events.Phase(name="baseline"), 500)
    for second in range(5):
        say(_memory(0.6 + 0.02 * second, gpu), 1)
    say(events.Phase(name="training"))
    for step in range(1, STEPS + 1):
        loss = final + 3.2 * math.exp(-step / 12) + chance.gauss(0, 0.04)
        took = seconds / STEPS * chance.uniform(0.9, 1.1)
        bad = diverged and step > STEPS // 2
        say(
            events.Step(
                step=step,
                steps=STEPS,
                epoch=step / 100,
                loss=None if bad else loss,
                learning_rate=5e-4,
                grad_norm=1.0,
                tokens=1330 + step % 7,
                answer_tokens=570 + step % 5,
                tokens_per_second=1330 / took,
                seconds=took,
            ),
            took,
        )
        gib = {"qlora": 0.9, "lora": 1.1, "full": 1.6}[method] + chance.uniform(0, 0.05)
        say(_memory(gib, gpu, training=True))
        if step % 30 == 0:
            say(
                events.Eval(when="during", split="validation", step=step, rows=128, loss=None if bad else loss + 0.03),
                0.5,
            )
    say(events.Phase(name="evaluation"))
    say(_memory(0.8, gpu), 5)
    say(events.End(status="finished", reason=""))
    run.events_file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in log))


def _memory(gib: float, gpu: bool, training: bool = False) -> events.Memory:
    own = int(gib * GIB)
    reserved = int(own * 1.2) if gpu else None
    return events.Memory(
        rss=own,
        rss_peak=own,
        allocated=own if gpu else None,
        allocated_peak=own if gpu else None,
        reserved=reserved,
        reserved_peak=reserved,
        training=training,
        nvml_used=int(own * 1.3) if gpu else None,
    )


def write_predictions(
    run: RunDir, method: str, seed: int, hostile: bool, base: bool, metric: str = "exact_match"
) -> None:
    """Answers of a method; better methods fail on fewer items."""
    chance = random.Random(f"{method}{seed}")
    lines = []
    for item in range(ITEMS):
        right = chance.random() < METHODS[method][0]
        target = f'{{"category": "broken", "order": "PN{item:05}"}}'
        answer = target if right else '{"category": "late", "order": null}'
        asked = f"My order PN{item:05} came in pieces.\nPlease send another."
        prompt = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        if hostile and item < len(HOSTILE):  # rungs have different answers here, so that the report shows them
            prompt = target = HOSTILE[item]
            right, answer = method == "full", HOSTILE[item]
        lines.append(
            {
                "item": item,
                "where": f"test.jsonl line {item + 1}",
                "prompt": prompt,
                "target": target,
                "base": _answer("wish page with", False, metric) if base else None,
                "tuned": _answer(answer, right, metric),
            }
        )
    run_dir.write_atomically(run.predictions_file, b"\n".join(map(msgspec.json.encode, lines)) + b"\n")


def _answer(output: str, right: bool, metric: str) -> dict[str, Any]:
    scores = {name: float(right) for name in {"loss": (), "open": ("chrf", "rouge")}.get(metric, (metric, "valid"))}
    return {"nll": 4.0 if right else 30.0, "tokens": 20, "output": output, "scores": scores or None}
