"""Speed-up by shared prefixes: forward and backward of one step, as a Markdown table.

    python tests/bench/shared_prefix.py --model DIR [--method lora] [--rounds 3]

Rows of random tokens with a common prefix. `packed` computes every row alone, `padded` as a batch, `shared` computes
the prefix once. The tools alternate in every round; the table has medians. "ideal" is the ratio of the tokens.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time

import torch
from transformers.utils import logging

from engine.config.schema import Config, Model, Train
from engine.data.tokens import Row
from engine.methods import method
from engine.methods.machine import this_machine
from engine.training import varlen_attention
from engine.training.collation import Packing, collate
from engine.training.loss import summed_loss

CASES = ((26, 8, 25), (64, 16, 64), (100, 8, 100), (400, 8, 40), (400, 16, 40), (400, 8, 400), (1000, 8, 50))
"""(tokens of the prefix, rows, tokens after it)."""
ANSWER = 4
LAYOUTS = {name: Packing(mode, 1 << 30, segments=mode != "padded") for name, mode in {
    "packed": "packed", "padded": "padded", "shared": "shared_prefix"}.items()}  # fmt: skip


def rows_of(prefix: int, count: int, suffix: int) -> list[Row]:
    """Rows with a common prefix of random tokens."""
    source = random.Random(0)

    def tokens(number: int) -> list[int]:
        return source.choices(range(100, 4000), k=number)

    common, rows = tokens(prefix), []
    for number in range(count):
        ids = common + tokens(suffix)
        rows.append(Row(ids, [-100] * (len(ids) - ANSWER) + ids[-ANSWER:], ids[:-ANSWER], "", str(number), False))
    return rows


def seconds(model: torch.nn.Module, rows: list[Row], packing: Packing) -> tuple[float, float]:
    """(seconds of forward and backward, loss)."""
    model.zero_grad(set_to_none=True)
    batch = collate(rows, packing, 0, "cpu")
    started = time.perf_counter()
    loss = summed_loss(model, batch, answers_only=True)
    loss.backward()
    return time.perf_counter() - started, float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model, with a vocabulary of at least 4,000 tokens")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable_progress_bar()
    config = Config(method=options.method, model=Model(id=options.model), train=Train(precision=options.precision))
    base = method(config.method).load(config, this_machine())
    varlen_attention.enable(base)
    model = method(config.method).make_trainable(base, config).train()
    print("| prefix tokens | rows | suffix tokens | packed, s | padded, s | shared, s ", end="")
    print("| packed / shared | padded / shared | ideal | largest difference of the loss |\n|" + "---|" * 10)
    for prefix, count, suffix in CASES:
        rows = rows_of(prefix, count, suffix)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in LAYOUTS}
        for _ in range(options.rounds + 1):
            for name, packing in LAYOUTS.items():
                found[name].append(seconds(model, rows, packing))
        times = {name: statistics.median(time for time, _ in values[1:]) for name, values in found.items()}
        losses = [values[0][1] for values in found.values()]
        off = max(abs(loss / losses[0] - 1) for loss in losses)
        ideal = count * (prefix + suffix) / (prefix + count * suffix)
        print(
            f"| {prefix} | {count} | {suffix} | {times['packed']:.2f} | {times['padded']:.2f} | {times['shared']:.2f} "
            f"| {times['packed'] / times['shared']:.2f} | {times['padded'] / times['shared']:.2f} | {ideal:.2f} "
            f"| {off:.0e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
