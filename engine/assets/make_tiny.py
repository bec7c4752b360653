"""Pretrains the embedded tiny model from generated text and saves it as a plain folder.

`python -m engine.assets.make_tiny [folder]` takes some minutes on two cores. The seed fixes the
corpus and the order; the weights may differ in the last digits from machine to machine.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from engine.assets import tiny_folder
from engine.assets.make_tokenizer import train_tokenizer
from engine.assets.packing import packed_rows, repeat_drill, tokenizer_texts

SEED = 7
DRILL_STEPS, STEPS = 500, 1500
BATCH, LENGTH = 16, 256
DRILL_RATE, PEAK_RATE = 1.5e-3, 1.5e-3
HELD_OUT = 8  # batches kept for the closing loss


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Layer widths are multiples of 64 in and 32 out, which 4-bit weights on a CPU require."""
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=640, num_hidden_layers=4,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    torch.manual_seed(SEED)
    return LlamaForCausalLM(config)


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross entropy per token, weighted; the weights say how much a token matters as a target."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=rows, use_cache=False).logits[:, :-1]
    targets, counts = rows[:, 1:].flatten(), weights[:, 1:].flatten()
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
    return (loss * counts).sum() / counts.sum()


def train(
    model: LlamaForCausalLM, steps: int, rate: float, draw: Callable[[int], tuple[torch.Tensor, torch.Tensor]]
) -> None:
    """One pass of AdamW with a warm-up and a cosine decay; `draw` gives the batch of a step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.08)
    began = time.monotonic()
    for step in range(steps):
        loss = loss_of(model, *draw(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step + 1 == steps:
            print(f"step {step} loss {loss.item():.3f} seconds {time.monotonic() - began:.0f}", flush=True)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    # One file for settings and template: readers of older releases look there for it.
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    for path in folder.iterdir():
        path.chmod(0o644)


def main(folder: Path, steps: int = STEPS, drill_steps: int = DRILL_STEPS) -> None:
    torch.set_num_threads(2)
    tokenizer = train_tokenizer(tokenizer_texts(SEED))
    model = build_model(tokenizer)
    rows, weights = packed_rows(tokenizer, (steps + HELD_OUT) * BATCH, LENGTH, SEED + 1)
    rows, weights = rows.view(-1, BATCH, LENGTH), weights.view(-1, BATCH, LENGTH)
    print(f"{model.num_parameters()} parameters, {rows[HELD_OUT:].numel()} tokens", flush=True)
    # Looking back at what was said grows fast on rows that repeat and hardly at all on text.
    train(model, drill_steps, DRILL_RATE, lambda step: repeat_drill(step, len(tokenizer)))
    train(model, steps, PEAK_RATE, lambda step: (rows[HELD_OUT + step], weights[HELD_OUT + step]))
    with torch.no_grad():
        held = [loss_of(model, rows[i], (weights[i] == 1).float()).item() for i in range(HELD_OUT)]
    print(f"loss on unseen answers {sum(held) / HELD_OUT:.3f}")
    save(model, tokenizer, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_folder())
