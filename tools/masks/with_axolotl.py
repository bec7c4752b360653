"""axolotl: dataset type `chat_template` for conversations, `completion` for plain text, then its length limit."""

from __future__ import annotations

import os
from pathlib import Path

from job import Json, Tokens, as_turns, load_tokenizer, main

os.environ["AXOLOTL_DO_NOT_TRACK"] = os.environ["DO_NOT_TRACK"] = os.environ["HF_HUB_OFFLINE"] = "1"


def prepare(shape: Json, row: Json, tokenizer: str, folder: Path) -> Tokens | None:
    """The row as tokenized by axolotl's strategy; None if the length limit drops it."""
    from axolotl.prompt_strategies import load
    from axolotl.utils.data.utils import handle_long_seq_in_dataset
    from axolotl.utils.dict import DictDefault
    from datasets import Dataset

    tok = load_tokenizer(tokenizer, shape["template_text"])
    cfg = DictDefault(
        sequence_len=shape["max_length"],
        train_on_inputs=False,
        chat_template="tokenizer_default",
        excess_length_strategy="truncate",
        dataset_num_proc=1,
    )
    if shape["form"] == "text":
        made = load("completion", tok, cfg, {}).tokenize_prompt({"text": [row["text"]]})
        made = {key: values[0] for key, values in made.items()}
    else:
        made = load("chat_template", tok, cfg, _settings(shape)).tokenize_prompt(_given(shape, row))
    rows = handle_long_seq_in_dataset(Dataset.from_list([dict(made)]), shape["max_length"], cfg)
    return (list(rows[0]["input_ids"]), list(rows[0]["labels"])) if len(rows) else None


def _given(shape: Json, row: Json) -> Json:
    """A row for the dataset type `chat_template`: ShareGPT unchanged, others as messages."""
    return row if shape["form"] == "sharegpt" else as_turns(row)


def _settings(shape: Json) -> Json:
    """The entry under `datasets` in axolotl's configuration."""
    if shape["form"] == "sharegpt":
        names = {"role": "from", "content": "value"}
        return {"type": "chat_template", "field_messages": "conversations", "message_property_mappings": names}
    flags = {"message_field_training": "weight"} if shape["last_only"] else {}
    return {"type": "chat_template", **flags}


if __name__ == "__main__":
    main("axolotl", prepare)
