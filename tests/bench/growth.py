"""Resident set while training by LoRA on the CPU, in bf16 and float32, with pass sizes filled up or as they come.

`OMP_NUM_THREADS=1 python tests/bench/growth.py` prints a Markdown table; each row is a process of its own, 101 steps
of 16 rows of the embedded data through the embedded model, forward and backward only.
"""

from __future__ import annotations

import subprocess
import sys

SEEN = (0, 10, 20, 40, 60, 80, 100)


def train(precision: str, whole: int) -> list[int]:
    """MiB resident after the steps of SEEN."""
    import psutil

    from engine.config.schema import Config, Data, Train
    from engine.data.prepare import prepare
    from engine.methods import lora
    from engine.methods.machine import this_machine
    from engine.methods.tokenizer import load_tokenizer
    from engine.training import batches, loss

    batches.SHAPE_MULTIPLE["cpu"] = whole
    config = Config(method="lora", train=Train(precision=precision))
    tokenizer = load_tokenizer(config.model)
    rows = prepare(Data(), 512, tokenizer).train
    model = lora.make_trainable(lora.load(config, this_machine()), config).train()
    seen = []
    for step in range(max(SEEN) + 1):
        start = step * 16 % (len(rows) - 16)
        for portion in batches.micro_batches(rows[start : start + 16], 16, batches.Packing("packed", 1024)):
            batch = batches.collate(portion, "packed", tokenizer.pad_token_id, "cpu")
            (loss.summed_loss(model, batch, keep=True) / 500).backward()
        if step in SEEN:
            seen.append(psutil.Process().memory_info().rss >> 20)
    return seen


def main() -> None:
    print("| arithmetic | sizes | " + " | ".join(f"step {step}" for step in SEEN) + " |")
    print("|---" * (len(SEEN) + 2) + "|")
    for precision, whole in (("bf16", 1), ("bf16", 64), ("fp32", 1), ("fp32", 64)):
        command = [sys.executable, __file__, precision, str(whole)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        sizes = "as they come" if whole == 1 else f"multiples of {whole}"
        print(f"| {precision} | {sizes} | " + " | ".join(done.stdout.split()) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(*train(sys.argv[1], int(sys.argv[2])))
    else:
        main()
