"""Prepare a file as trl's SFTTrainer does; prints {"seconds", "cpu", "rows"} as JSON. Called by `tools/data.py`.

The trainer's constructor runs `SFTTrainer._prepare_dataset` with `dataset_num_proc=2`: datasets.map over the chat
template and tokenizer, the labels, the cut and the filter. Its model is a Llama of one layer of width 8.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

with_cache = tempfile.TemporaryDirectory()
os.environ["HF_DATASETS_CACHE"] = with_cache.name
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

from datasets import load_dataset  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

from engine.config.schema import Model  # noqa: E402
from engine.methods.model_source import load_tokenizer  # noqa: E402


def main(file: str, model: str) -> None:
    tokenizer = load_tokenizer(Model(id=model))
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    tiny = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    args = SFTConfig(
        output_dir=with_cache.name, report_to=[], dataset_num_proc=2, max_length=1024, use_cpu=True, bf16=False
    )
    started, used = time.perf_counter(), sum(os.times()[:4])
    rows = load_dataset("json", data_files=file, split="train")
    trainer = SFTTrainer(model=tiny, args=args, train_dataset=rows, processing_class=tokenizer)
    seconds, cpu = time.perf_counter() - started, sum(os.times()[:4]) - used
    print(json.dumps({"seconds": seconds, "cpu": cpu, "rows": len(trainer.train_dataset)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
