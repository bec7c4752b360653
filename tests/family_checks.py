"""What a run does with a tiny model of a family: training, packing, resuming and merging, checked in one process."""

from __future__ import annotations

import copy
import random
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from small_training import Steps, make_training
from tiny_configs import family_config, with_rope
from transformers import AutoConfig, GenerationConfig, set_seed

from engine.config.device_defaults import resolve_checkpointing
from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_spec
from engine.config.preset import Preset, resolve
from engine.config.schema import Config, Train
from engine.data.tokens import IGNORE_INDEX, Row
from engine.evaluation.generate import Generator
from engine.evaluation.score import row_losses
from engine.export.artifact_check import served_class
from engine.export.exporter import write_merged
from engine.methods import method
from engine.methods.loading import auto_class
from engine.methods.machine import Machine, this_machine
from engine.methods.model_source import load_tokenizer
from engine.methods.optimizers import make_optimizer
from engine.methods.rope import separate_lengths
from engine.methods.weights import account_of
from engine.runs.run.usage import COMPARED, left_out_share
from engine.training.batches import BatchSampler, Packing, answer_tokens, choose_packing, collate, micro_batches
from engine.training.fit import fit
from engine.training.loss import summed_loss, supports_logits_to_keep
from engine.training.ranks import SINGLE_RANK
from engine.training.row_independence import ONE_ROW
from engine.worker.planning import decide_packing

TINY = Path(__file__).parent.parent / "engine" / "assets" / "tiny"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
MAX_PARAMETERS = 40_000_000
ROWS, STEPS = 8, 4
VOCABULARY, ANSWER, ENDS = 96, 6, frozenset({2})
"""Of the rows on which types of RoPE are compared: tokens, and those of an answer; what ends it."""
SAME_GRADIENT = 1e-3
"""Relative difference of gradients in float32 that rounding and another kernel explain."""
SAME_LOGITS = 2e-3
"""The same for the logits of a merged model in float32."""
Result = dict[str, Any]


class Rows(list[Row]):
    """Rows with the lengths that a dataset knows."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row.input_ids) for row in self])


def random_rows(vocabulary: int) -> Rows:
    """Rows of different lengths, the second half of each in the loss."""
    generator = random.Random(0)
    return Rows(row_of(generator, generator.randrange(10, 30), vocabulary, number + 1) for number in range(ROWS))


def row_of(generator: random.Random, length: int, vocabulary: int, number: int = 1) -> Row:
    ids = [generator.randrange(8, vocabulary) for _ in range(length)]
    half = len(ids) // 2
    return Row(ids, [IGNORE_INDEX] * half + ids[half:], ids[:half], "", f"row {number}", False)


def write_model(kind: str, folder: Path, rope: str = "", limit: int = 0) -> int:
    """Random weights of a family, with the tokenizer of the embedded model. Returns the number of parameters. `rope`: a
    type of RoPE whose frequencies change after `limit` tokens.
    """
    for name in TOKENIZER_FILES:
        shutil.copy(TINY / name, folder / name)
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    sizes = len(tokenizer), tokenizer.pad_token_id, 1, tokenizer.eos_token_id
    model_config = with_rope(kind, rope, limit, *sizes) if rope else family_config(kind, *sizes)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in auto_class(model_config).from_config(model_config).parameters())
    if count > MAX_PARAMETERS:
        raise UserError(f"{count:,} parameters are too many for a tiny model", kind, "", code="families.too_large")
    torch.manual_seed(0)
    model = auto_class(model_config).from_config(model_config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return count


def configuration(name: str, folder: Path) -> Any:
    values = {
        "model.id": str(folder), "train.precision": "fp32", "train.batch": 4, "train.steps": STEPS,
        "train.max_length": 64, "evaluation.when": "never", "optimizer.name": "adamw",
        "train.gradient_checkpointing": False, "train.micro_batch": 4,
    }  # fmt: skip
    return resolve(Preset("families", {"method": name, **values})).config


def trainable(name: str, folder: Path, machine: Machine) -> tuple[Any, Any]:
    """(configuration, model ready for training), as a worker loads it. Adapters are random: they start as zero."""
    config = configuration(name, folder)
    set_seed(0)
    module = method(name)
    model = module.make_trainable(module.load(config, machine), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and not method_spec(name).trains_weights:
                parameter.add_(0.02 * torch.randn_like(parameter))
    return config, model


def check_method(name: str, folder: Path, machine: Machine) -> Result:
    """Whether a method trains the family, and the share of the compared weights that it adapts, quantizes or trains."""
    config, model = trainable(name, folder, machine)
    account = account_of(model, config, machine.device)
    compared = account.total(parts=COMPARED) or 1
    spec = method_spec(name)
    result: Result = {"state": "ok", "left_out": round(left_out_share(account, spec), 4)}
    if spec.trains_weights:
        result["trained"] = round(account.total(state="trained", parts=COMPARED) / compared, 4)
    else:
        result["adapted"] = round(account.total(state="adapted", parts=COMPARED) / compared, 4)
    if spec.quantizes_base:
        result["quantized"] = round(account.total(quantized=True, parts=COMPARED) / compared, 4)
    gradient = gradient_of(model, random_rows(vocabulary_of(folder))[:2], ONE_ROW)
    if not torch.isfinite(gradient).all() or not gradient.any():
        result |= {"state": "error", "error": "the gradient is zero or not finite"}
    return result


def vocabulary_of(folder: Path) -> int:
    text = AutoConfig.from_pretrained(folder).get_text_config()
    return int(text.vocab_size)


def gradient_of(model: Any, rows: Sequence[Row], packing: Packing) -> torch.Tensor:
    """(trained parameters,): the gradient of the summed loss of the rows, in micro-batches of up to four, without
    dropout.
    """
    model.zero_grad(set_to_none=True)
    answers_only = supports_logits_to_keep(model)
    model.eval()
    for batch in micro_batches(rows, 4, packing):
        summed_loss(model, collate(batch, packing, 0, "cpu"), answers_only).backward()
    parts = [
        parameter.grad.flatten().float()
        for parameter in model.parameters()
        if parameter.requires_grad and parameter.grad is not None
    ]
    model.zero_grad(set_to_none=True)
    return torch.cat(parts)


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


def check_packing(folder: Path, machine: Machine) -> Result:
    """The packing that a worker decides on, and how its gradients differ from those of rows alone."""
    config, model = trainable("lora", folder, machine)
    rows = random_rows(vocabulary_of(folder))
    notes: list[str] = []
    packing, _ = decide_packing(
        config, model, rows, rows, 0, machine, SINGLE_RANK, lambda code, text: notes.append(text)
    )
    mode = "one row at a time" if packing == ONE_ROW else packing.mode.replace("_", " ")
    chosen = gradient_of(model, rows, packing)
    alone = gradient_of(model, rows, ONE_ROW)
    padded = gradient_of(model, rows, choose_packing(rows, "padded", machine.device, varlen=False))
    result: Result = {"packing": mode, "chosen": difference(chosen, alone), "padded": difference(padded, alone)}
    result["notes"] = [note.split("\n")[0][:200] for note in notes if "padded" in note or "influence" in note]
    return result


def check_rope(kind: str, rope: str, limit: int = 24) -> Result:
    """With a type of RoPE whose frequencies change after `limit` tokens: how far rows that are computed together are
    from each row alone by transformers, in a model that has computed nothing else. {} for a family without RoPE.

    `gradient`: of the packing that a worker decides on, `padded`: of padded rows; `losses`: the largest difference of a
    held-out loss of a row, in nats; `answers`: how many greedy answers differ.
    """
    model_config = with_rope(kind, rope, limit, VOCABULARY)
    if model_config is None:
        return {}
    torch.manual_seed(0)
    made = auto_class(model_config).from_config(model_config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    lengths = [5, limit - 6, limit - 6, limit - 2, limit - 1, limit, limit + 1, 40, 2 * limit + 3]
    rows = Rows(row_of(random.Random(number), length, VOCABULARY) for number, length in enumerate(lengths))
    losses, gradients, answers = zip(*(alone(copy.deepcopy(made), row) for row in rows), strict=True)

    model = copy.deepcopy(made)
    separate_lengths(model)
    notes: list[str] = []
    config, machine = Config(train=Train(batch=len(rows), steps=1)), this_machine()
    packing, _ = decide_packing(config, model, rows, [], 0, machine, SINGLE_RANK, lambda code, text: notes.append(text))
    held_out = row_losses(model, list(reversed(rows)), packing, 0, "cpu")[::-1]
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    generator = Generator(tokenizer, ANSWER, len(rows), "cpu", ENDS, lambda code, text: None)
    answered = generator.answer_tokens(model, [replace(row, prompt=row.input_ids) for row in rows])
    return {
        "packing": "one row at a time" if packing == ONE_ROW else packing.mode,
        "gradient": difference(gradient_of(model, rows, packing), torch.stack(gradients).sum(0)),
        "padded": difference(gradient_of(model, rows, Packing("padded", 1000)), torch.stack(gradients).sum(0)),
        "losses": max(abs(ours.nll - theirs) for ours, theirs in zip(held_out, losses, strict=True)),
        "answers": sum(ours != theirs for ours, theirs in zip(answered, answers, strict=True)),
        "notes": notes,
    }


def alone(model: Any, row: Row) -> tuple[float, torch.Tensor, list[int]]:
    """(loss in nats, gradient, greedy answer to the whole row) of a row, all by transformers."""
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    loss = model(input_ids=ids, labels=labels, use_cache=False).loss * answer_tokens(row)
    loss.backward()
    used = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    settings = GenerationConfig(max_new_tokens=ANSWER, do_sample=False, pad_token_id=0, eos_token_id=sorted(ENDS))
    answer = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    tokens = answer[0, len(row.input_ids) :].tolist()
    return float(loss.detach()), torch.cat(used), list(takewhile(lambda token: token not in ENDS, tokens))


def train(folder: Path, scratch: Path, machine: Machine, resume: Path | None) -> list[float]:
    """Losses of the steps with LoRA, from the start or from a checkpoint."""
    config, model = trainable("lora", folder, machine)
    rows = random_rows(vocabulary_of(folder))
    optimizer, _ = make_optimizer(model.parameters(), config, machine, lambda code, text: None)
    sampler = BatchSampler(len(rows), 4, STEPS, config.train.seed)
    checkpointing = resolve_checkpointing(config.train.gradient_checkpointing, machine.device)
    training = make_training(
        model, rows, sampler, config, optimizer, scratch / "checkpoints", micro_batch=4, device=machine.device, keep=2,
        packing=choose_packing(rows, "padded", machine.device, varlen=False), checkpointing=checkpointing,
    )  # fmt: skip
    steps = Steps(save_at=STEPS // 2 if resume is None else -1)
    fit(training, steps, resume)
    return steps.losses


def check_resume(folder: Path, scratch: Path, machine: Machine) -> Result:
    """Whether training that continues from a checkpoint has the losses of training without interruption."""
    whole = train(folder, scratch, machine, None)
    continued = train(folder, scratch, machine, scratch / "checkpoints" / f"step-{STEPS // 2}")
    return {"resume": "equal to the bit" if whole[STEPS // 2 :] == continued else f"{whole[2:]} and {continued}"}


def check_merged(folder: Path, scratch: Path, machine: Machine) -> Result:
    """Whether a server's class loads the merged model completely, and whether it computes what the adapter did."""
    config, model = trainable("lora", folder, machine)
    model.save_pretrained(scratch / "model")
    source = SimpleNamespace(
        base=config.model, spec=method_spec("lora"), directory=SimpleNamespace(model=scratch / "model"),
        frozen=SimpleNamespace(config=config), tokenizer=load_tokenizer(config.model),
    )  # fmt: skip
    merged = scratch / "merged"
    merged.mkdir()
    write_merged(source, "f32", merged, "original", lambda *progress: None)
    served, info = served_class(AutoConfig.from_pretrained(merged)).from_pretrained(
        merged, dtype=torch.float32, output_loading_info=True
    )
    wrong = {key: len(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[key]}
    if wrong:
        return {"merged": "error", "served": type(served).__name__, "error": str(wrong)}
    ids = torch.tensor([random_rows(vocabulary_of(folder))[0].input_ids])
    with torch.no_grad():
        ours, theirs = (network.eval()(input_ids=ids, use_cache=False).logits for network in (model, served))
    apart = difference(theirs, ours)
    state = "equal" if apart <= SAME_LOGITS else "error"
    return {"merged": state, "served": type(served).__name__, "logits": apart}


def attempt(check: Callable[[], Result]) -> Result:
    """What a check found; a refusal with its code, or the error."""
    try:
        return check()
    except UserError as error:
        return {"state": "refused", "code": error.code, "error": error.problem[:200]}
    except Exception as error:  # noqa: BLE001 - a row of the table
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).strip().split("\n")[0][:160]
        return {
            "state": "error",
            "error": f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno})",
        }


def check_family(kind: str, scratch: Path) -> Result:
    """All checks of a family."""
    machine = this_machine()
    base = scratch / "base"
    base.mkdir()
    row: Result = {"family": kind, "parameters": write_model(kind, base)}
    row["class"] = AutoConfig.from_pretrained(base).architectures[0]
    for name in method_names():
        row[name] = attempt(lambda name=name: check_method(name, base, machine))
    if row["lora"]["state"] == "ok":
        row["rows"] = attempt(lambda: check_packing(base, machine))
        row["resume"] = attempt(lambda: check_resume(base, scratch / "resume", machine))
        row["merged"] = attempt(lambda: check_merged(base, scratch, machine))
    return row
