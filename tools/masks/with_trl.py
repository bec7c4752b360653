"""trl's SFTTrainer: messages with `assistant_only_loss`, prompt and completion where only the last answer counts."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from job import Json, Tokens, as_turns, load_tokenizer, main

os.environ["HF_HUB_DISABLE_TELEMETRY"] = os.environ["HF_HUB_OFFLINE"] = "1"


def prepare(shape: Json, row: Json, tokenizer: str, folder: Path) -> Tokens | None:
    """The row of the trainer's prepared dataset; None if the trainer drops it."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    text = shape["form"] == "text"
    given, options = ({"text": row["text"]}, {}) if text else _given(shape, as_turns(row))
    config = SFTConfig(
        output_dir=str(folder), report_to="none", use_cpu=True, bf16=False, max_length=shape["max_length"], **options
    )
    tok = load_tokenizer(tokenizer, marked(shape["template_text"]))
    trainer = SFTTrainer(model=_model(), args=config, train_dataset=Dataset.from_list([given]), processing_class=tok)
    rows = list(trainer.train_dataset)
    return (list(rows[0]["input_ids"]), list(rows[0]["labels"])) if rows else None


def _given(shape: Json, row: Json) -> tuple[Json, Json]:
    messages = [{key: value for key, value in turn.items() if key != "weight"} for turn in row["messages"]]
    tools = {"tools": row["tools"]} if "tools" in row else {}
    if shape["last_only"] or shape["form"] == "pair":
        return {"prompt": messages[:-1], "completion": messages[-1:], **tools}, {"completion_only_loss": True}
    return {"messages": messages, **tools}, {"assistant_only_loss": True}


def marked(template: str) -> str:
    """SmolLM2's template with `{% generation %}` blocks, which trl needs; other templates are returned unchanged."""
    if "SmolLM" not in template:
        return template
    turn = "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    assert turn in template
    answer = (
        "{{'<|im_start|>assistant\n'}}{% generation %}{{message['content'] + '<|im_end|>' + '\n'}}{% endgeneration %}"
    )
    return template.replace(turn, f"{{% if message['role'] == 'assistant' %}}{answer}{{% else %}}{turn}{{% endif %}}")


@functools.cache
def _model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50_000, **small))


if __name__ == "__main__":
    main("trl", prepare)
