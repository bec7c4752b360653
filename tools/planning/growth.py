"""Resident set while training with LoRA on the CPU, in bf16 and float32, with padded and unpadded micro-batches, and
how many sizes kernels see.

Each row of the first table is a new process: 101 steps of 16 rows of the embedded dataset through the embedded model,
forward and backward only. oneDNN caches a kernel for each new size of a bf16 matrix product, so unpadded lengths grow.
The second table counts those sizes, which do not depend on the CPU; a tiny model has the same numbers of tokens.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

SAMPLED_STEPS = (0, 10, 20, 40, 60, 80, 100)


def train(precision: str, multiple: int) -> list[int]:
    """MiB resident after each of SAMPLED_STEPS, with sequence lengths padded to a multiple."""
    import psutil

    from engine.config.device_defaults import SHAPE_MULTIPLE
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


def sizes(mode: str) -> list[int]:
    """Different sizes of matrix products and of attention after 10, 30 and 60 steps, by `train.packing`."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from transformers import LlamaConfig, LlamaForCausalLM

    from engine.config.schema import Data, Model
    from engine.data.prepare import prepare
    from engine.methods.model_source import load_tokenizer
    from engine.training import batches, loss, varlen_attention

    seen: set[tuple[Any, ...]] = set()

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, inputs: Any = (), options: Any = None) -> Any:
            name = operation.name()
            if name.startswith(("aten::mm", "aten::addmm")):
                seen.add((name, *inputs[-2].shape, *inputs[-1].shape))
            elif name.startswith("aten::_scaled_dot_product_flash_attention_for_cpu"):
                query = int("backward" in name)
                seen.add((inputs[query].shape[2], inputs[query + 1].shape[2]))
            return operation(*inputs, **(options or {}))

    tokenizer = load_tokenizer(Model())
    rows = prepare(Data(), 512, tokenizer).train
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **small))
    packing = batches.Packing(mode, 2048, segments=mode != "padded")
    if packing.segments:
        varlen_attention.enable(model)
    loss.chunkable_head(model)  # compares two tokens, once
    counts = []
    for step in range(60):
        start = step * 16 % (len(rows) - 16)
        for group in batches.micro_batches(rows[start : start + 16], 16, packing):
            with Sizes():
                loss.summed_loss(model, batches.collate(group, packing, 0, "cpu"), answers_only=True).backward()
        counts.append(len(seen))
    return [counts[9], counts[29], counts[59]]


def print_table() -> None:
    """Print the resident set by precision and padding, in MiB, and the number of sizes by packing."""
    print("| precision | sequence lengths | " + " | ".join(f"step {step}" for step in SAMPLED_STEPS) + " |")
    print("|---" * (len(SAMPLED_STEPS) + 2) + "|")
    for precision, multiple in (("bf16", 1), ("bf16", 64), ("fp32", 1), ("fp32", 64)):
        command = [sys.executable, __file__, precision, str(multiple)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        lengths = "unpadded" if multiple == 1 else f"multiples of {multiple}"
        print(f"| {precision} | {lengths} | " + " | ".join(done.stdout.split()) + " |", flush=True)
    print("\n| packing | sizes after step 10 | step 30 | step 60 |\n|---|---|---|---|")
    for mode in ("shared_prefix", "packed", "padded"):
        print(f"| {mode} | " + " | ".join(map(str, sizes(mode))) + " |", flush=True)


if __name__ == "__main__":  # a process of the table
    print(*train(sys.argv[1], int(sys.argv[2])))
