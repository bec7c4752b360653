"""Tokens/s of ftbench against trl and LLaMA-Factory on a GPU, on random weights and the same rows."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT, TESTS

from engine.config.preset import Preset, resolve
from engine.extensions.doctor.training_session import (
    ModelShape,
    choose_shape,
    free_disk,
    log_normal_lengths,
    write_random_weights,
)
from engine.methods.machine import this_machine
from gpu.separate_process import in_own_process

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]
TINY = TESTS.parent / "engine" / "assets" / "tiny"
GENERAL_TEXT = TESTS.parent / "engine" / "assets" / "general.txt"
STEPS, BATCH = 8, 4
TOKENS_PER_WORD = 1.6
"""Of the embedded tokenizer, roughly: rows need not have exact lengths."""


def interpreter(package: str, variable: str) -> str:
    """The interpreter with a peer: that of a variable, else this one if the package is installed."""
    return os.environ.get(variable) or (sys.executable if importlib.util.find_spec(package) else "")


PEERS = {
    "--trl": interpreter("trl", "FTBENCH_TRL_PYTHON"),
    "--factory": interpreter("llamafactory", "FTBENCH_FACTORY_PYTHON"),
}


def write_model(folder: Path) -> ModelShape:
    """Random weights with the embedded tokenizer."""
    values = {"method": "full", "train.precision": "mixed", "optimizer.name": "adamw"}
    config = resolve(Preset("peers", {**values, "train.gradient_checkpointing": False})).config
    free, _ = torch.cuda.mem_get_info()
    # Half of the memory: the choice is for one row per forward pass, and the tools differ in what they need.
    shape, _ = choose_shape(config, this_machine(), free // 2, free_disk(folder))
    write_random_weights(shape.architecture(), folder / "model", "cuda")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TINY / name, folder / "model" / name)
    return shape


def write_rows(folder: Path) -> None:
    """Rows of log-normal length from the embedded general text, in the layout of the workload wikisql."""
    words, generator = GENERAL_TEXT.read_text("utf-8").split(), random.Random(0)
    folder.mkdir()
    for split, count in (("train", STEPS * BATCH), ("test", 8)):
        lines = []
        for length in log_normal_lengths(count, 2048):
            start = generator.randrange(len(words))
            chosen = [words[(start + place) % len(words)] for place in range(round(length / TOKENS_PER_WORD))]
            lines.append(json.dumps({"text": " ".join(chosen)}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")


@pytest.mark.skipif(not any(PEERS.values()), reason="neither trl nor LLaMA-Factory is installed")
def test_ftbench_trains_as_fast_as_its_peers(scratch: Path) -> None:
    shape = in_own_process(write_model, scratch)
    write_rows(scratch / "data")
    command = [sys.executable, str(ROOT / "tools" / "peers.py"), "--gpu", "--workload", "wikisql"]
    command += ["--model", str(scratch / "model"), "--data", str(scratch / "data"), "--rounds", "3"]
    command += ["--steps", str(STEPS), "--batch", str(BATCH), "--max-length", "2048", "--full-precision", "mixed"]
    command += [word for option, python in PEERS.items() if python for word in (option, python)]
    raw = scratch / "raw.jsonl"
    done = subprocess.run([*command, "--raw", str(raw)], capture_output=True, text=True, timeout=7200)
    print(f"{torch.cuda.get_device_name(0)}, {shape.title}\n{done.stdout}{done.stderr}")
    assert done.returncode == 0
    rates = token_rates(raw)
    slower = {key: rate for key, rate in rates.items() if rate > 1.05 * rates[key[0], "ftbench"]}
    assert slower == {}, f"faster than ftbench: {slower}, of {rates}"


def token_rates(raw: Path) -> dict[tuple[str, str], float]:
    """(method, tool) -> median tokens/s of the steps after the first two."""
    samples: dict[tuple[str, str], list[float]] = {}
    for line in raw.read_text("utf-8").splitlines():
        run = json.loads(line)
        seen = run["measured"]
        pairs = list(zip(seen["tokens"], seen["seconds"], strict=True))[2:]
        samples.setdefault((run["method"], run["tool"]), []).extend(tokens / seconds for tokens, seconds in pairs)
    return {key: sorted(rates)[len(rates) // 2] for key, rates in samples.items()}
