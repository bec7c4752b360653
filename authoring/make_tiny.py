"""Pretrain the embedded tiny model on generated text and save it.

`python -m authoring.make_tiny [folder]` runs two processes of one thread each. The seed fixes the corpus and
its order; weights may differ in the last digits between machines.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from authoring.copying import copy_accuracy
from authoring.corpus import CODES_LAST, KEYS_LAST, KINDS, SUPPORT_LAST, documents
from authoring.corpus_words import EVERYDAY
from authoring.make_tokenizer import train_tokenizer
from authoring.pretraining_batches import Batch, Mix, batches
from authoring.word_tokenizer import change_tokenizer, train_word_tokenizer
from engine.assets import tiny_folder

SEED = 7
PROCESSES = 2
WARMUP = 60
"""Steps at the start of a stage in which the rate rises."""
MATRIX_RATE, VECTOR_RATE = 2e-2, 3e-3
"""Peak rates of Muon for the matrices of the layers, and of AdamW for the embedding and the norms."""
PORT = 29517


@dataclass(frozen=True)
class Stage:
    """A part of pretraining with its own mix of documents and new optimizers."""

    steps: int
    mix: Mix
    seed: int
    copying_pools: int = 0
    decay: int = 0
    """Steps at the end in which the rate falls to zero."""
    rate: float = 1.0
    """Factor of both peak rates."""

    def rate_factor(self, step: int) -> float:
        end = (self.steps - step) / self.decay if self.decay else 1.0
        return self.rate * min((step + 1) / WARMUP, 1.0, end)


STAGES = (
    Stage(800, KINDS, SEED + 1, copying_pools=6),
    Stage(1000, SUPPORT_LAST, SEED + 11, decay=400),
    Stage(450, KEYS_LAST, SEED + 21, decay=390, rate=0.6),
)
LAST_STAGES = (
    Stage(550, KEYS_LAST, SEED + 31, decay=430, rate=0.8),
    Stage(1400, CODES_LAST, SEED + 41, decay=1100, rate=0.7),
)
"""After the others, with the tokenizer that the model keeps."""


def tokenizer_texts() -> list[str]:
    """Texts for training the tokenizer. Chats without role markers: these are special tokens and need no merges."""
    texts: list[str] = []
    for document in documents(20_000, SEED):
        texts += [document] if isinstance(document, str) else [turn["content"] for turn in document]
    # Words as JSON strings: keys and values are single tokens, which makes answers short.
    texts += [json.dumps(EVERYDAY, separators=(",", ":"))] * 60
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


def loss_of(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """The mean loss of the batch's targets; the head runs at their positions only.

    Rows are padded on the right and attention is causal, so no mask is needed.
    """
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][batch.kept])
    return cross_entropy(logits.float(), batch.tokens[:, 1:][batch.kept])


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if name.endswith("_proj.weight")]
    others = [p for name, p in model.named_parameters() if not name.endswith("_proj.weight")]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=VECTOR_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def average_gradients(model: LlamaForCausalLM) -> None:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def pretrain(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, stage: Stage, rank: int) -> None:
    opts = optimizers(model)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, stage.rate_factor) for o in opts]
    stream = batches(tokenizer, stage.seed + rank, stage.mix, stage.copying_pools)
    start, tokens = time.monotonic(), 0
    for step, batch in zip(range(stage.steps), stream, strict=False):
        tokens += batch.tokens.numel() * PROCESSES
        loss = loss_of(model, batch)
        loss.backward()
        average_gradients(model)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepped in [*opts, *schedules]:
            stepped.step()
        model.zero_grad()
        if rank == 0 and (step % 50 == 49 or step + 1 == stage.steps):
            copied = copy_accuracy(model, tokenizer, SEED + 100)
            seconds = time.monotonic() - start
            print(
                f"step {step + 1} loss {loss.item():.3f} copied {copied:.1%} {tokens} tokens {seconds:.0f} s",
                flush=True,
            )


def held_out_loss(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> float:
    stream = batches(tokenizer, SEED + 50)
    with torch.no_grad():
        return torch.stack([loss_of(model, next(stream)) for _ in range(8)]).mean().item()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    # One file for settings and template: older releases read it there.
    tokenizer.save_pretrained(folder, save_jinja_files=False)


def work(rank: int, folder: Path, first: PreTrainedTokenizerFast, tokenizer: PreTrainedTokenizerFast) -> None:
    """One of the processes: all have the same weights and different documents."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{PORT}", rank=rank, world_size=PROCESSES)
    model = build_model(first)
    for stage in STAGES:
        pretrain(model, first, stage, rank)
    change_tokenizer(model, first, tokenizer)
    for stage in LAST_STAGES:
        pretrain(model, tokenizer, stage, rank)
    if rank == 0:
        copied = copy_accuracy(model, tokenizer, SEED + 200, messages=256)
        loss = held_out_loss(model, tokenizer)
        print(f"{model.num_parameters()} parameters, held-out loss {loss:.3f}, copied {copied:.1%}")
        save(model, tokenizer, folder)
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path) -> None:
    texts = tokenizer_texts()
    mp.spawn(work, (folder, train_tokenizer(texts), train_word_tokenizer(texts)), nprocs=PROCESSES)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else tiny_folder())
