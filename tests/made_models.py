"""Finished runs with loadable models, made in seconds without training: random adapters, changed full weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers.utils import logging as transformers_logging

from engine.config.files import write_atomically
from engine.config.preset_library import resolve_preset
from engine.data.detection import examples_of
from engine.data.prepare import prepare
from engine.data.prompts import PromptEncoder
from engine.evaluation.preflight import decide_metric
from engine.extensions.chat.models import prompt_of
from engine.methods import method
from engine.methods.machine import this_machine
from engine.methods.model_source import config_of, fingerprint, load_tokenizer
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir

transformers_logging.disable_progress_bar()


def made_model(runs: Path, name: str, seed: int = 1, scale: float = 0.05, **settings: Any) -> RunDir:
    """A finished run of a method whose model differs from its base. scale: of the change; 0 leaves it equal.

    In float32: in bf16, batches of different shapes round differently.
    """
    values = {"evaluation.max_new_tokens": 24, "train.precision": "fp32", **settings}
    resolved = resolve_preset("demo-lora", name, values)
    config, machine = resolved.config, this_machine()
    run = run_dir.create(runs, "demo-lora", resolved)
    torch.manual_seed(seed)
    network = method(name).make_trainable(method(name).load(config, machine), config)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * scale * (1.0 if name != "full" else 0.1))
    if not scale:
        for key, parameter in network.named_parameters():
            if "lora_B" in key:
                parameter.data.zero_()
    network.save_pretrained(run.model)
    tokenizer = load_tokenizer(config.model)
    tokenizer.save_pretrained(run.model)
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    result.metric = decide_metric(config.evaluation, prepare(config.data, config.train.max_length, tokenizer).train)[
        0
    ].metric
    result.fingerprints = {"model": fingerprint(config.model, config_of(config.model))}
    run_dir.write_result(run, result)
    return run


def record_answers(run: RunDir, answers: Sequence[tuple[str, bool]], base: tuple[str, bool] = ("no", False)) -> None:
    """Record the run's answers (text, right) to the first test items, and the same answer of its base to each."""
    frozen, result = run_dir.read_frozen(run), run.result()
    assert result is not None
    config = frozen.with_metric(result.metric).config
    tokenizer = load_tokenizer(config.model)
    examples = list(examples_of(config.data, ("test",)))[: len(answers)]
    rows = PromptEncoder(tokenizer).rows(examples)
    lines = []
    for number, (row, tuned) in enumerate(zip(rows, answers, strict=True)):
        line = {"item": number, "where": row.where, "prompt": tokenizer.decode(row.prompt), "target": row.target}
        lines.append(msgspec.json.encode({**line, "base": _item(*base, config), "tuned": _item(*tuned, config)}))
    write_atomically(run.predictions_file, b"\n".join([*lines, b""]))


def _item(text: str, right: bool, config: Any) -> dict[str, Any]:
    return {"nll": 1.0, "tokens": 2, "output": text, "scores": {config.evaluation.metric: float(right)}}


def conversation_of(run: RunDir, number: int = 0) -> Any:
    """The conversation of a test item."""
    examples = examples_of(run_dir.read_frozen(run).config.data, ("test",))
    return prompt_of(list(examples)[number])
