"""Resident set while training with LoRA on the CPU, in bf16 and float32, with padded and unpadded micro-batches.

Each row of the table is a new process: 101 steps of 16 rows of the embedded dataset through the embedded model,
forward and backward only. oneDNN caches a kernel for each new size of a bf16 matrix product, so unpadded lengths grow.
"""

from __future__ import annotations

import subprocess
import sys

SAMPLED_STEPS = (0, 10, 20, 40, 60, 80, 100)


def train(precision: str, multiple: int) -> list[int]:
    """MiB resident after each of SAMPLED_STEPS, with sequence lengths padded to a multiple."""
    import psutil

    from engine.config.batch_limits import SHAPE_MULTIPLE
    from engine.config.schema import Config, Data, Train
    from engine.data.prepare import prepare
    from engine.methods import lora
    from engine.methods.machine import this_machine
    from engine.methods.model_source import load_tokenizer
    from engine.training import batches, loss

    SHAPE_MULTIPLE["cpu"] = multiple
    config = Config(method="lora", train=Train(precision=precision))
    tokenizer = load_tokenizer(config.model)
    rows = prepare(Data(), 512, tokenizer).train
    model = lora.make_trainable(lora.load(config, this_machine()), config).train()
    resident = []
    for step in range(max(SAMPLED_STEPS) + 1):
        start = step * 16 % (len(rows) - 16)
        packing = batches.Packing("packed", 1024)
        for group in batches.micro_batches(rows[start : start + 16], 16, packing):
            batch = batches.collate(group, packing, tokenizer.pad_token_id, "cpu")
            (loss.summed_loss(model, batch, answers_only=True) / 500).backward()
        if step in SAMPLED_STEPS:
            resident.append(psutil.Process().memory_info().rss >> 20)
    return resident


def print_table() -> None:
    """Print the resident set by precision and padding, in MiB."""
    print("| precision | sequence lengths | " + " | ".join(f"step {step}" for step in SAMPLED_STEPS) + " |")
    print("|---" * (len(SAMPLED_STEPS) + 2) + "|")
    for precision, multiple in (("bf16", 1), ("bf16", 64), ("fp32", 1), ("fp32", 64)):
        command = [sys.executable, __file__, precision, str(multiple)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lengths = "unpadded" if multiple == 1 else f"multiples of {multiple}"
        print(f"| {precision} | {lengths} | " + " | ".join(done.stdout.split()) + " |", flush=True)


if __name__ == "__main__":  # a process of the table
    print(*train(sys.argv[1], int(sys.argv[2])))
