"""LLaMA-Factory, by the function behind `llamafactory-cli train`: stage sft in ChatML, or stage pt."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from measure import Job, Measurement, arguments, main, watcher

os.environ["DISABLE_VERSION_CHECK"] = "1"
SYSTEM, END = "<|im_start|>system\n", "<|im_end|>"


def train(job: Job) -> Measurement:
    """Train with the settings of a YAML file for `llamafactory-cli train`."""
    from llamafactory.train.tuner import run_exp

    write_rows(job)
    callback, seen = watcher()
    run_exp(settings(job), callbacks=[callback])
    return seen


def settings(job: Job) -> dict[str, Any]:
    """The same settings as in the other tools, where they exist."""
    chosen = {
        **arguments(job),
        "stage": "sft" if job.instructs else "pt",
        "do_train": True,
        "model_name_or_path": job.model,
        "finetuning_type": "full" if job.method == "full" else "lora",
        "dataset": "rows",
        "dataset_dir": job.folder,
        "template": "chatml",
        "cutoff_len": job.max_length,
        "packing": False,
        "disable_shuffling": True,
        "disable_gradient_checkpointing": True,
        "dataloader_num_workers": 0,
    }
    if job.instructs and not job.system and (system := default_system(job.model)):
        chosen["default_system"] = system
    if job.method != "full":
        # bf16 also sets the dtype of the frozen weights; the adapters are float32.
        chosen |= {"bf16": job.adapter_precision == "bf16", "lora_target": "all"}
        chosen |= {"lora_rank": job.rank, "lora_alpha": job.alpha}
    if job.method == "qlora":
        chosen |= {"quantization_bit": 4, "quantization_method": "bnb", "double_quantization": True}
    return chosen


def default_system(model: str) -> str:
    """The default system prompt of the model's ChatML template."""
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": ""}]
    text = str(AutoTokenizer.from_pretrained(model).apply_chat_template(messages, tokenize=False))
    return text.removeprefix(SYSTEM).split(END)[0] if text.startswith(SYSTEM) else ""


def write_rows(job: Job) -> None:
    """Write a data folder in its format."""
    columns = {"prompt": "prompt", "response": "completion"} if job.instructs else {"prompt": "text"}
    if job.system:
        columns["system"] = "system"
    folder = Path(job.folder)
    folder.joinpath("rows.json").write_text(json.dumps(job.rows), "utf-8")
    info = {"rows": {"file_name": "rows.json", "columns": columns}}
    folder.joinpath("dataset_info.json").write_text(json.dumps(info), "utf-8")


if __name__ == "__main__":
    main(train)
