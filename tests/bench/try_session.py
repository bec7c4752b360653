"""Adapter switching, first token and tokens/s of `ftbench try` against transformers' plain `generate`; prints a table.

    python tests/bench/try_session.py
    python tests/bench/try_session.py --model SMOLLM2 --tokens 64 --rounds 5

`--model` is what `model.id` accepts. Two LoRA adapters with random weights (rank 16, all linear layers) share one base.
Both ways answer the same prompt with exactly `--tokens` tokens, greedily, with the same adapter; they alternate.
First token: prompt to first token. tokens/s: tokens after the first one.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parents[1])]

PROMPT = "Hello, my kettle broke after one week. I would like my money back, please. The order is AB12345."


def ours(network: Any, prompt: list[int], tokens: int, device: str) -> tuple[float, float]:
    """Seconds to the first token, and from it to the last."""
    from engine.chat.generation import ReusableCache, stream
    from engine.runs.chat_messages import Sampling

    started = time.perf_counter()
    times = [time.perf_counter() for _ in islice(stream(network, prompt, ReusableCache(), Sampling(), device), tokens)]
    return times[0] - started, times[-1] - times[0]


def plain(network: Any, prompt: list[int], tokens: int, device: str) -> tuple[float, float]:
    """The same by `generate` with a streamer, as transformers' documentation streams."""
    import torch

    times: list[float] = []

    class Clock:
        def put(self, value: Any) -> None:
            times.append(time.perf_counter())

        def end(self) -> None:
            pass

    ids = torch.tensor([prompt], device=device)
    settings = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "streamer": Clock()}
    started = time.perf_counter()
    network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)
    return times[1] - started, times[-1] - times[1]  # the first call has the prompt


WAYS: dict[str, Callable[..., tuple[float, float]]] = {"ftbench try": ours, "generate": plain}


def switching(copy: Any, keys: list[str | None], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of switching between adapters, and to the base and back."""
    found: dict[str, list[float]] = {"adapter to adapter": [], "adapter to base": []}
    one, other = keys
    for _ in range(rounds):
        for before, after, name in ((one, other, "adapter to adapter"), (one, None, "adapter to base")):
            with copy.active(before):
                pass
            started = time.perf_counter()
            with copy.active(after):
                found[name].append((time.perf_counter() - started) * 1e3)
    return found


def main() -> None:
    """Load, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from made_models import made_model

    from engine.chat.models import Loader, tried_run
    from engine.methods.machine import this_machine
    from engine.runs.chat_messages import Conversation
    from tui.live.chat_state import memory_text

    with tempfile.TemporaryDirectory() as work:
        os.environ["FTBENCH_LOCKS"] = f"{work}/locks"
        runs = [made_model(Path(work), "lora", seed, **{"model.id": options.model}) for seed in (1, 2)]
        machine = this_machine()
        loaded = Loader([tried_run(run.path) for run in runs], machine, lambda text: None).load(True)
        responder = list(loaded.responders.values())[1]
        question = Conversation(messages=[{"role": "user", "content": PROMPT}])
        prompt = responder.encoder.ids(question)
        print(f"{options.model} on {machine.name}; {memory_text(loaded.memory())}\n")
        print("| switch | ms, median | ms, most |\n|---|---|---|")
        keys: list[str | None] = [one.adapter for one in list(loaded.responders.values())[1:]]
        for name, milliseconds in switching(responder.copy, keys, options.rounds * 10).items():
            print(f"| {name} | {median(milliseconds):.2f} | {max(milliseconds):.2f} |")
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        with responder.copy.active(responder.adapter) as network:
            for number in range(-1, options.rounds):  # the first round warms up
                for way in list(WAYS)[:: 1 if number % 2 else -1]:
                    measured = WAYS[way](network, prompt, options.tokens, machine.device)
                    if number >= 0:
                        found[way].append(measured)
    print(f"\n{len(prompt)} prompt tokens, {options.tokens} answer tokens, median of {options.rounds} (range)\n")
    print("| way | first token, ms | tokens/s |\n|---|---|---|")
    for way, pairs in found.items():
        first = [one * 1e3 for one, _ in pairs]
        rates = [(options.tokens - 1) / rest for _, rest in pairs]
        firsts = f"{median(first):.0f} ({min(first):.0f}–{max(first):.0f})"
        print(f"| {way} | {firsts} | {median(rates):.1f} ({min(rates):.1f}–{max(rates):.1f}) |")


if __name__ == "__main__":
    main()
