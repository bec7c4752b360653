"""Training steps with threads that spin and threads that sleep while they wait for each other:
`python tests/bench/waiting_threads.py`.

Each measurement is a new process that trains micro-batches of the embedded data with as many threads as there are CPUs:
with libgomp's default, with sleep after some spinning (1,000 times is what `engine.methods.quick_import` sets), and
with sleep at once (OMP_WAIT_POLICY=PASSIVE), by turns. Each is measured alone and while one other process per CPU is
busy. Prints the median seconds per micro-batch (forward and backward) of the rounds, and their range.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

POLICIES = {
    "spin (libgomp's default)": {},
    "spin 100,000 times, then sleep": {"GOMP_SPINCOUNT": "100000"},
    "spin 30,000 times, then sleep": {"GOMP_SPINCOUNT": "30000"},
    "spin 10,000 times, then sleep": {"GOMP_SPINCOUNT": "10000"},
    "spin 1,000 times, then sleep": {"GOMP_SPINCOUNT": "1000"},
    "sleep (PASSIVE)": {"OMP_WAIT_POLICY": "PASSIVE"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="name, folder or Hub id")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(seconds_per_batch(options.model, options.batches))
        return
    print("| other processes | threads that wait | s per micro-batch |\n|---|---|---|")
    for busy in (0, os.cpu_count() or 1):
        seconds: dict[str, list[float]] = {name: [] for name in POLICIES}
        with busy_processes(busy):
            for number in range(options.rounds):
                for name in list(POLICIES)[:: 1 if number % 2 else -1]:
                    seconds[name].append(measured(options, POLICIES[name]))
        for name, values in seconds.items():
            spread = f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})"
            print(f"| {f'{busy} busy' if busy else 'none'} | {name} | {spread} |", flush=True)


def measured(options: argparse.Namespace, policy: dict[str, str]) -> float:
    """Seconds per micro-batch in a new process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--child", "--model", options.model, "--batches", str(options.batches)]
    done = subprocess.run(command, env=environment | policy, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Processes that use one CPU each."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds_per_batch(model_id: str, batches: int) -> float:
    """The median of forward and backward passes of LoRA in bf16, after two that are not counted."""
    import torch  # reads the environment

    from engine.config import schema
    from engine.data.prepare import prepare
    from engine.methods import method
    from engine.methods.loading import load_pretrained
    from engine.methods.machine import this_machine
    from engine.methods.tokenizer import load_tokenizer
    from engine.training import varlen_attention
    from engine.training.collation import Packing, collate
    from engine.training.loss import summed_loss, supports_logits_to_keep

    section = schema.Model(id=model_id)
    tokenizer = load_tokenizer(section)
    rows = list(prepare(schema.Data(id="tickets"), 512, tokenizer).train)
    base = load_pretrained(section, this_machine(), torch.bfloat16)
    base.set_attn_implementation(varlen_attention.NAME)
    model = method("lora").make_trainable(base, schema.Config()).train()
    packing, numbers, seconds = Packing("packed", 10_000, segments=True), random.Random(0), []
    for _ in range(batches):
        batch = collate(numbers.sample(rows, 8), packing, tokenizer.pad_token_id, "cpu")
        started = time.perf_counter()
        summed_loss(model, batch, supports_logits_to_keep(model), 1.0).backward()
        seconds.append(time.perf_counter() - started)
        model.zero_grad(set_to_none=True)
    return statistics.median(seconds[2:])


if __name__ == "__main__":
    main()
