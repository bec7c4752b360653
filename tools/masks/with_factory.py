"""LLaMA-Factory: its own loader, converter, template and processor for stage sft, and stage pt for plain text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from job import Json, NotSupported, Tokens, main

os.environ["DISABLE_VERSION_CHECK"] = os.environ["HF_HUB_OFFLINE"] = "1"
TEMPLATES = {"own": "chatml", "qwen2.5": "qwen", "qwen3": "qwen3"}
"""LLaMA-Factory's template that writes the same text as the shape's chat template."""
TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "observation_tag": "tool", "function_tag": "function", "system_tag": "system"}  # fmt: skip
INFOS: dict[str, Json] = {
    "messages": {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": TAGS},
    "sharegpt": {"formatting": "sharegpt", "columns": {"messages": "conversations"}},
    "pair": {"columns": {"prompt": "prompt", "response": "completion"}},
    "alpaca": {"columns": {"prompt": "instruction", "query": "input", "response": "output"}},
    "text": {"columns": {"prompt": "text"}},
}


def prepare(shape: Json, row: Json, tokenizer: str, folder: Path) -> Tokens | None:
    """The row of `get_dataset`'s training set; None if LLaMA-Factory drops it."""
    if shape["template"] not in TEMPLATES:
        raise NotSupported("has no template that writes these turns")
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    _write(shape, row, folder)
    model, data, training, _, _ = get_train_args(_settings(shape, tokenizer, folder))
    tok = load_tokenizer(model)["tokenizer"]
    template = get_template_and_fix_tokenizer(tok, data)
    stage = "pt" if shape["form"] == "text" else "sft"
    try:
        made = get_dataset(template, model, data, training, stage=stage, tokenizer=tok)["train_dataset"][0]
    except RuntimeError as error:
        if "Cannot find valid samples" in str(error):
            return None
        raise
    return list(made["input_ids"]), list(made["labels"]) if stage == "sft" else _collated(tok, made)


def _collated(tokenizer: Any, made: Json) -> list[int]:
    """In stage pt, transformers' collator sets the labels: every token but the padding token."""
    return [-100 if number == tokenizer.pad_token_id else number for number in made["input_ids"]]


def _write(shape: Json, row: Json, folder: Path) -> None:
    info: Json = {"file_name": "rows.json", **json.loads(json.dumps(INFOS[shape["form"]]))}
    if "history" in row:
        info["columns"]["history"] = "history"
    if "tools" in row:  # only the format openai reads `tool_calls`; without tools it would add a system prompt
        info["formatting"] = "openai"
        info["columns"]["tools"] = "tools"
        row = {**row, "tools": json.dumps([tool["function"] for tool in row["tools"]])}
    (folder / "rows.json").write_text(json.dumps([row]), "utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": info}), "utf-8")


def _settings(shape: Json, tokenizer: str, folder: Path) -> Json:
    """Settings as in a YAML file for `llamafactory-cli`."""
    chosen = {
        "stage": "pt" if shape["form"] == "text" else "sft",
        "do_train": True,
        "model_name_or_path": tokenizer,
        "finetuning_type": "full",
        "dataset": "rows",
        "dataset_dir": str(folder),
        "output_dir": str(folder / "out"),
        "template": TEMPLATES[shape["template"]],
        "cutoff_len": shape["max_length"],
        "packing": False,
        "overwrite_cache": True,
        "report_to": "none",
        "use_cpu": True,
    }
    if shape["last_only"]:
        chosen["mask_history"] = True
    if shape["default_system"]:
        chosen["default_system"] = shape["default_system"]
    return chosen


if __name__ == "__main__":
    main("llamafactory", prepare)
