"""Pretrain the embedded tiny model on generated text and save it.

`python -m engine.assets.build.make_tiny [folder]` takes about 20 minutes on two cores. The seed fixes the corpus and
its order; weights may differ in the last digits between machines.
"""

import sys
import time
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.assets import tiny_folder
from engine.assets.build.corpus import documents
from engine.assets.build.make_tokenizer import as_text, train_tokenizer

SEED = 7
STEPS = 2600
BATCH, LENGTH = 16, 256
PEAK_RATE = 3e-3
HELD_OUT = 8
"""Batches for the final held-out loss."""


def tokenizer_texts() -> list[str]:
    """Texts for training the tokenizer. Chats without role markers: these are special tokens and need no merges."""
    texts: list[str] = []
    for document in documents(20_000, SEED):
        texts += [document] if isinstance(document, str) else [turn["content"] for turn in document]
    return texts + ["system\nuser\nassistant\ntool\n"] * 200


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A model with layer widths that are multiples of 64 (in) and 32 (out), as 4-bit weights on a CPU require."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def packed_rows(tokenizer: PreTrainedTokenizerFast, count: int) -> torch.Tensor:
    """Rows of complete documents, the last one truncated, so that each row starts like a prompt."""
    rows: list[list[int]] = []
    row: list[int] = []
    for document in documents(count * 12, SEED + 1):
        row += tokenizer(as_text(document, tokenizer), add_special_tokens=False)["input_ids"]
        if len(row) >= LENGTH:
            rows.append(row[:LENGTH])
            row = []
        if len(rows) == count:
            return torch.tensor(rows)
    raise ValueError(f"the corpus filled {len(rows)} of {count} rows")


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return model(input_ids=rows, labels=rows, use_cache=False).loss


def pretrain(model: LlamaForCausalLM, batches: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, len(batches), pct_start=0.08)
    start = time.monotonic()
    for step, rows in enumerate(batches):
        loss = loss_of(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step + 1 == len(batches):
            print(f"step {step} loss {loss.item():.3f} seconds {time.monotonic() - start:.0f}", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    # One file for settings and template: older releases read it there.
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def main(folder: Path, steps: int = STEPS) -> None:
    torch.set_num_threads(2)
    tokenizer = train_tokenizer(tokenizer_texts())
    model = build_model(tokenizer)
    batches = packed_rows(tokenizer, (steps + HELD_OUT) * BATCH).view(-1, BATCH, LENGTH)
    tokens = batches[HELD_OUT:].numel()
    print(f"{model.num_parameters()} parameters, {tokens} tokens, {len(tokenizer)} vocabulary", flush=True)
    pretrain(model, batches[HELD_OUT:])
    with torch.no_grad():
        held_out = torch.stack([loss_of(model, rows) for rows in batches[:HELD_OUT]]).mean()
    print(f"held-out loss {held_out.item():.3f}")
    save(model, tokenizer, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_folder())
