"""Whether each fine-tuning method works on this machine: one training step of each on the embedded model."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from engine.config.method_specs import method_names, method_title
from engine.config.preset import Preset, resolve
from engine.methods import method
from engine.methods.machine import Machine
from engine.methods.optimizers import make_optimizer

TOKENS = 32
"""Tokens of the row that is trained on."""


def check_methods(machine: Machine) -> Iterator[dict[str, Any]]:
    """For each method: title, whether it is ready, seconds of the step, optimizer, notes, and why it is not ready."""
    transformers_logging.disable_progress_bar()
    for name in method_names():
        found: dict[str, Any] = {"method": name, "title": method_title(name), "ready": False, "why": "", "notes": []}
        try:
            found |= _train_one_step(name, machine, found["notes"])
            found["ready"] = True
        except Exception as error:  # noqa: BLE001 - any failure of the method or of a library is the answer
            found["why"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield found


def _train_one_step(name: str, machine: Machine, notes: list[str]) -> dict[str, Any]:
    """Load the embedded model, and update its trainable parameters once. Raises an error of any library."""
    config = resolve(Preset("doctor", {}), name).config
    set_seed(0)
    module = method(name)
    model = module.make_trainable(module.load(config, machine), config)
    optimizer, optimizer_name = make_optimizer(
        model.parameters(), config, machine, lambda code, text: notes.append(text)
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ids = torch.arange(1, TOKENS + 1, device=trainable[0].device)[None]  # (1, TOKENS)
    model.train()
    began = time.monotonic()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    before = [parameter.detach().clone() for parameter in trainable]
    optimizer.step()
    changed = any(not torch.equal(was, now) for was, now in zip(before, trainable, strict=True))
    seconds = time.monotonic() - began
    if not math.isfinite(float(loss.detach())):
        raise ValueError("the loss of a training step is not finite")
    if not changed:
        raise ValueError("a training step changed no weight")
    return {"seconds": round(seconds, 3), "optimizer": optimizer_name}
