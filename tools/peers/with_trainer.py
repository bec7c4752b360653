"""transformers' Trainer with PEFT: padded rows, labels of -100 outside the loss."""

from __future__ import annotations

from typing import Any

import torch
from measure import Job, Measurement, arguments, main, watcher
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
    set_seed,
)


def train(job: Job) -> Measurement:
    """Train on the rows in the job's order, one micro-batch per step."""
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    callback, seen = watcher()
    trainer = Trainer(
        model=load(job),
        args=TrainingArguments(**arguments(job), train_sampling_strategy="sequential"),
        train_dataset=[tokenized(row, tokenizer, job.max_length) for row in job.rows],
        data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        callbacks=[callback],
    )
    trainer.train()
    return seen


def load(job: Job) -> Any:
    """The model, with adapters unless the method is full.

    Without `prepare_model_for_kbit_training`: it makes activations float32, and bitsandbytes computes in the dtype of
    its input.
    """
    how = {"quantization_config": four_bit(job.weights)} if job.method == "qlora" else {}
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=getattr(torch, job.weights), **how)
    return model if job.method == "full" else get_peft_model(model, adapter(job))


def four_bit(dtype: str) -> BitsAndBytesConfig:
    """QLoRA's configuration: NF4, double quantization, products in `dtype`."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )


def adapter(job: Job) -> LoraConfig:
    """LoRA on every linear layer but the head."""
    return LoraConfig(
        r=job.rank, lora_alpha=job.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def tokenized(row: dict[str, str], tokenizer: Any, max_length: int) -> dict[str, list[int]]:
    """Ids and labels: the answer and its end token are in the loss; of plain text, every token and an end token."""
    if "text" in row:
        ids = [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]
        return cut(ids, ids, max_length)
    messages = [*question(row), {"role": "assistant", "content": row["completion"]}]
    prompt = tokenizer.apply_chat_template(question(row), add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    start, end = len(prompt), len(ids) - ids[::-1].index(tokenizer.eos_token_id)
    # The line feed that a template writes after the end token is not in the loss.
    return cut(ids, [-100] * start + ids[start:end] + [-100] * (len(ids) - end), max_length)


def question(row: dict[str, str]) -> list[dict[str, str]]:
    """The messages before the answer."""
    system = [{"role": "system", "content": row["system"]}] if "system" in row else []
    return [*system, {"role": "user", "content": row["prompt"]}]


def cut(ids: list[int], labels: list[int], max_length: int) -> dict[str, list[int]]:
    """Truncate on the right."""
    ids = ids[:max_length]
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels[:max_length]}


if __name__ == "__main__":
    main(train)
