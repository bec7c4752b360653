"""Time that training waits for checkpoints, and memory of resuming: `python tests/bench/checkpoint_writing.py`.

Full fine-tuning in float32 of a Llama of SmolLM2-135M's shape with random weights on one CPU thread, and a checkpoint
every third step. Each row is a process of its own. `--shape tiny` is the shape of the embedded model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from engine.config import schema
from engine.config.activation_checkpointing import OFF
from engine.config.files import temporary_folder
from engine.data.tokens import Row
from engine.memory.probe import available_for_copy
from engine.methods.adapters import add_adapters
from engine.methods.machine import this_machine
from engine.methods.optimizers import make_optimizer
from engine.training.batches import BatchSampler
from engine.training.callback import Callback
from engine.training.checkpoint_writer import HostCopy
from engine.training.checkpoints import SavedCheckpoint, SaveTimer
from engine.training.collation import Packing
from engine.training.guards import free_memory
from engine.training.trainer import AnswerTrainer, Hooks, StepFacts, training_arguments

SHAPES = {
    "SmolLM2-135M": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9}
    | {"num_key_value_heads": 3, "vocab_size": 49152},
    "tiny": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    | {"num_key_value_heads": 2, "vocab_size": 2048},
}
STEPS, EVERY, ROWS, LENGTH = 9, 3, 2, 64
MIB = 1 << 20


class AnonymousMemory:
    """Peak of a process's anonymous memory while the context is open, read every 5 ms; file pages are not counted."""

    def __enter__(self) -> AnonymousMemory:
        self.before = self.peak = self.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.after = self.now()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self.now())

    @staticmethod
    def now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def trainer_of(chosen: argparse.Namespace, folder: Path, steps: int, copies: bool) -> AnswerTrainer:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPES[chosen.shape], tie_word_embeddings=True))
    if chosen.method == "lora":
        model = add_adapters(model, schema.Adapter())
    config = schema.Config(method=chosen.method, optimizer=schema.Optimizer(name=chosen.optimizer))
    optimizer, _ = make_optimizer(model.parameters(), config, this_machine(), lambda code, text: None)
    ids = torch.randint(3, 2000, (ROWS * STEPS, LENGTH)).tolist()
    rows = [Row(row, row, row[:1], "", str(number), False) for number, row in enumerate(ids)]
    sampler = BatchSampler.of(len(rows), ROWS, 1.0, STEPS, 0)
    arguments = training_arguments(config, sampler, folder, "cpu", OFF)
    arguments.max_steps = steps
    return AnswerTrainer(
        rows=rows, sampler=sampler, packing=Packing("packed", 100_000), micro_batch=ROWS, keep_checkpoints=1,
        checkpoint_folder=folder / "checkpoints", tokenizer=SimpleNamespace(pad_token_id=0), hooks=Hooks(), model=model,
        host_copy=HostCopy(available_for_copy, lambda code, text: print(text, file=sys.stderr)) if copies else None,
        args=arguments, optimizers=(optimizer, None),
    )  # fmt: skip


def save(chosen: argparse.Namespace, folder: Path, how: str) -> dict[str, Any]:
    """Train with checkpoints; how long each took and training waited, and the duration of steps meanwhile."""
    trainer = trainer_of(chosen, folder, STEPS, how == "thread")
    saved: list[SavedCheckpoint] = []
    steps: dict[bool, list[float]] = {True: [], False: []}
    trainer.hooks.saved = saved.append

    def on_step(step: int, facts: StepFacts, rate: float) -> None:
        if step > 1:
            steps[any((folder / "checkpoints").glob(".writing-*"))].append(facts.seconds)

    due = SaveTimer(EVERY if how != "none" else STEPS + 1, STEPS)
    trainer.add_callback(Callback(trainer.hooks, trainer, on_step, lambda: False, lambda step: None, 0, due))
    with AnonymousMemory() as memory:
        started = time.monotonic()
        trainer.train()
        seconds = time.monotonic() - started
    during = saved[:-1]  # after the last step training always waits
    return {
        "checkpoint MB": round(saved[-1].bytes / 1e6),
        "training waits for the first, s": _rounded([one.blocked for one in during[:1]]),
        "for the second, s": _rounded([one.blocked for one in during[1:2]]),
        "complete after, s": _median([one.seconds for one in during]),
        "training, s": round(seconds, 1),
        "step, s": _median(steps[False]),
        "step while writing, s": _median(steps[True]),
        "peak of memory, MiB": round(memory.peak / MIB),
    }


def _rounded(values: list[float]) -> float | None:
    return round(values[0], 2) if values else None


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 2) if values else None


def resume(chosen: argparse.Namespace, folder: Path, how: str) -> dict[str, Any]:
    """Load the latest checkpoint; the memory that loading takes in addition to what it leaves."""
    trainer = trainer_of(chosen, folder, STEPS + 1, False)
    latest = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    trainer.create_scheduler(STEPS + 1, trainer.optimizer)
    free_memory()
    with AnonymousMemory() as memory:
        started = time.monotonic()
        trainer._load_from_checkpoint(str(latest))
        trainer._load_optimizer_and_scheduler(str(latest))
        seconds = time.monotonic() - started
        free_memory()
    state = sum(
        value.nbytes
        for state in trainer.optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    return {
        "loading, s": round(seconds, 1),
        "weights, MB": round(sum(p.nbytes for p in trainer.model.parameters()) / 1e6),
        "optimizer state, MB": round(state / 1e6),
        "memory after - before, MB": round((memory.after - memory.before) / 1e6),
        "peak - after, MB": round((memory.peak - memory.after) / 1e6),
    }


def copy_twice(chosen: argparse.Namespace, folder: Path, how: str) -> dict[str, Any]:
    """Copy weights and optimizer state into new memory, and then into the same memory again."""
    trainer, seconds = trainer_of(chosen, folder, 1, True), []
    for parameter in trainer.model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    trainer.optimizer.step()
    copy = HostCopy(available_for_copy, lambda code, text: print(text, file=sys.stderr))
    for _ in range(3):
        started = time.monotonic()
        copy.of(trainer._large_files())
        seconds.append(time.monotonic() - started)
    return {"first, s": round(seconds[0], 2), "later, s": round(min(seconds[1:]), 2)}


def child(arguments: list[str]) -> dict[str, Any]:
    """The last line of this program's output, run with these arguments."""
    command = [sys.executable, __file__, *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def table(rows: dict[str, dict[str, Any]]) -> str:
    names = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [
        f"| {label} | {' | '.join('–' if row[n] is None else str(row[n]) for n in names)} |"
        for label, row in rows.items()
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", choices=SHAPES, default="SmolLM2-135M")
    parser.add_argument("--optimizer", choices=("adamw", "adamw_8bit"), default="adamw")
    parser.add_argument("--method", choices=("full", "lora"), default="full")
    parser.add_argument("--child", nargs=2, metavar=("WHAT", "FOLDER"))
    chosen = parser.parse_args()
    if chosen.child:
        what, folder = chosen.child[0], Path(chosen.child[1])
        found = {"resume": resume, "copy": copy_twice}.get(what, save)(chosen, folder, what)
        print(json.dumps(found))
        return
    settings = ["--shape", chosen.shape, "--optimizer", chosen.optimizer, "--method", chosen.method, "--child"]
    with temporary_folder("ftbench-bench-") as folder:
        saving = {}
        for how, label in (("none", "no checkpoints"), ("wait", "training waits"), ("thread", "in a thread")):
            (folder / how).mkdir()
            saving[label] = child([*settings, how, str(folder / how)])
        print(table(saving), flush=True)
        print("\n" + table({"copying": child([*settings, "copy", str(folder)])}), flush=True)
        print("\n" + table({"resuming": child([*settings, "resume", str(folder / "thread")])}))


if __name__ == "__main__":
    main()
