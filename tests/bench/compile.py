"""Training steps with and without torch.compile: `python tests/bench/compile.py`.

Compiles the decoder layers as `train.compile` does, then trains micro-batches of 8 rows of different lengths by turns
with compiled and uncompiled layers. Prints the seconds to compile, the median seconds per micro-batch (forward and
backward), their ratio, and the largest relative difference of the losses. `--model`, `--data` and `--map` select others
than the embedded ones.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch

from engine.config import schema
from engine.config.preset import with_settings
from engine.data.prepare import prepare
from engine.data.tokens import Row
from engine.methods import method
from engine.methods.loading import load_pretrained
from engine.methods.machine import this_machine
from engine.methods.tokenizer import load_tokenizer
from engine.training import varlen_attention
from engine.training.collation import Packing, collate
from engine.training.compilation import compile_layers, uncompiled
from engine.training.loss import summed_loss, supports_logits_to_keep

PACKED = Packing("packed", 10_000, segments=True)


def forward_backward(model: torch.nn.Module, rows: list[Row], pad: int) -> tuple[float, float]:
    """(loss, seconds) of one micro-batch."""
    started = time.perf_counter()
    loss = summed_loss(model, collate(rows, PACKED, pad, "cpu"), supports_logits_to_keep(model), 1.0)
    loss.backward()
    value = loss.item()
    model.zero_grad(set_to_none=True)
    return value, time.perf_counter() - started


def measure(options: argparse.Namespace, name: str, dtype: torch.dtype) -> None:
    """Print one line of the table."""
    section = schema.Model(id=options.model)
    tokenizer = load_tokenizer(section)
    data = prepare(schema.Data(id=options.data, map=json.loads(options.map)), 512, tokenizer)
    base: Any = load_pretrained(section, this_machine(), dtype)
    base.set_attn_implementation(varlen_attention.NAME)
    model = method(name).make_trainable(base, with_settings(schema.Config(), {"method": name})).train()
    numbers, rows = random.Random(0), list(data.train)
    batches = [numbers.sample(rows, 8) for _ in range(options.batches)]
    compile_layers(model)
    _, compiling = forward_backward(model, batches[0][:1], tokenizer.pad_token_id)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    differences = []
    for number, batch in enumerate(batches):
        losses = {}
        for compiled in (True, False) if number % 2 else (False, True):
            with nullcontext() if compiled else uncompiled(model):
                losses[compiled], took = forward_backward(model, batch, tokenizer.pad_token_id)
            seconds[compiled].append(took)
        differences.append(abs(losses[True] - losses[False]) / abs(losses[False]))
    with_compile, without = (statistics.median(seconds[compiled][2:]) for compiled in (True, False))
    print(
        f"| {options.model} | {name} | {str(dtype).removeprefix('torch.')} | {compiling:.0f} | {without:.2f} "
        f"| {with_compile:.2f} | {without / with_compile:.2f} | {max(differences):.0e} |",
        flush=True,
    )
    torch.compiler.reset()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="name, folder or Hub id")
    parser.add_argument("--data", default="tickets")
    parser.add_argument("--map", default="{}", help="data.map as JSON")
    parser.add_argument("--batches", type=int, default=14)
    parser.add_argument("--methods", nargs="*", default=["lora", "full"])
    options = parser.parse_args()
    print("| model | method | data type | compiling, s | uncompiled, s | compiled, s | speedup | loss, relative |")
    print("|---" * 8 + "|", flush=True)
    for name in options.methods:
        for dtype in (torch.float32, torch.bfloat16):
            measure(options, name, dtype)


if __name__ == "__main__":
    main()
