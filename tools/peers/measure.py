"""Input (`Job`) and output (`Measurement`) of every program in this folder, and the callback that measures a peer.

A program is `python with_TOOL.py JOB.json`: it trains once, in a new process, and writes its measurement to the job's
`answer`. Only the standard library, torch and transformers are imported, because it runs in the peers' environments.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "trl", "llamafactory", "ftbench")


@dataclass(frozen=True)
class Job:
    """One training, with the same settings for every tool."""

    method: str
    """qlora, lora or full."""
    workload: str
    """banking77 (prompt and completion), banking77-labels (the same with a system prompt) or wikisql (text)."""
    model: str
    """Folder of safetensors."""
    folder: str
    """Folder for the program's files."""
    answer: str
    """File for the measurement."""
    steps: int
    batch: int
    max_length: int
    learning_rate: float
    max_grad_norm: float
    rank: int
    alpha: int
    full_precision: str
    """Precision of full fine-tuning: fp32, or mixed (float32 weights, bf16 autocast)."""
    adapter_precision: str
    """Precision of the frozen weights of LoRA, and of QLoRA's products: bf16 or fp32."""
    autocast: bool
    """Whether the peers train LoRA and QLoRA under bf16 autocast, over the same bf16 weights."""
    packing: str
    """`train.packing` of ftbench."""
    gpu: bool
    """Whether to train on the first GPU instead of the CPU."""
    rows: list[dict[str, str]]
    """In the order of training: prompt and completion, with or without system, or text."""
    test: list[dict[str, str]]
    """Rows for a tool that always scores the model."""

    @property
    def instructs(self) -> bool:
        """Whether rows are a prompt and its completion."""
        return "prompt" in self.rows[0]

    @property
    def system(self) -> str:
        """The system prompt of every row, or ''."""
        return self.rows[0].get("system", "")

    @property
    def bf16(self) -> bool:
        """Trainer's argument `bf16`: autocast."""
        return self.full_precision == "mixed" if self.method == "full" else self.autocast

    @property
    def weights(self) -> str:
        """torch dtype of the loaded weights; for QLoRA, of those that are not quantized."""
        return "float32" if self.method == "full" or self.adapter_precision == "fp32" else "bfloat16"


@dataclass
class Measurement:
    """Lists have one entry per optimizer step; bytes are of the training process."""

    seconds: list[float] = field(default_factory=list)
    """From the end of one step to the end of the next, loading of its rows included."""
    tokens: list[int] = field(default_factory=list)
    """Tokens in the model's input, without padding."""
    answer_tokens: list[int] = field(default_factory=list)
    """Tokens in the loss."""
    losses: list[float] = field(default_factory=list)
    peak_training: int = 0
    """Highest resident set while training; on a GPU the peak that torch's allocator reserved."""
    peak_process: int = 0
    """Highest resident set since the process started."""
    dtype: str = ""
    """dtype of the trained and the frozen weights, and whether autocast is on."""
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)


def main(train: Callable[[Job], Measurement]) -> None:
    """Read the job named on the command line, do it, write its measurement."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text("utf-8")))
    measurement = train(job)
    measurement.versions = installed()
    Path(job.answer).write_text(json.dumps(asdict(measurement)), "utf-8")


def installed() -> dict[str, str]:
    """Versions of the packages that matter, of those that are here."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def resident_peak() -> int:
    """Highest resident set since the process started or the last reset, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def reset_resident_peak() -> None:
    """Reset the peak of the resident set (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def watcher() -> tuple[Any, Measurement]:
    """A callback for transformers' Trainer and its subclasses, and the measurement it fills."""
    import torch
    from transformers import TrainerCallback

    seen = Measurement()

    def count(model: Any, args: Any, inputs: dict[str, Any]) -> None:
        ids, mask, labels = (inputs.get(name) for name in ("input_ids", "attention_mask", "labels"))
        seen.tokens.append(int((mask != 0).sum()) if mask is not None else ids.numel())
        if labels is not None:
            seen.answer_tokens.append(int((labels[:, 1:] != -100).sum()))

    class Watcher(TrainerCallback):
        """Measures time and memory; `on_step_end` is called at the same point in every tool."""

        last = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            model.register_forward_pre_hook(count, with_kwargs=True)
            trained = {str(p.dtype) for p in model.parameters() if p.requires_grad}
            frozen = {str(p.dtype) for p in model.parameters() if not p.requires_grad}
            names = [", ".join(sorted(kinds)).replace("torch.", "") for kinds in (trained, frozen) if kinds]
            seen.dtype = " over ".join(names) + (", autocast" if args.bf16 else "")
            seen.threads = torch.get_num_threads()
            seen.peak_process = resident_peak()
            reset_resident_peak()
            self.last = time.monotonic()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            now = time.monotonic()
            seen.seconds.append(now - self.last)
            self.last = now

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                seen.losses.append(float(logs["loss"]))

        def on_train_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            seen.peak_training = resident_peak() if args.use_cpu else torch.cuda.max_memory_reserved()
            seen.peak_process = max(seen.peak_process, resident_peak())

    return Watcher(), seen


def arguments(job: Job) -> dict[str, Any]:
    """TrainingArguments shared by all tools that use them."""
    return {
        "output_dir": str(Path(job.folder) / "out"),
        "max_steps": job.steps,
        "per_device_train_batch_size": job.batch,
        "gradient_accumulation_steps": 1,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": job.max_grad_norm,
        "optim": "adamw_torch_fused",
        "bf16": job.bf16,
        "use_cpu": not job.gpu,
        "save_strategy": "no",
        "eval_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 0,
    }
