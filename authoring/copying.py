"""How often the tiny model copies a random code out of a message that it has not seen."""

import random

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from authoring.corpus_support import message


def copy_accuracy(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, messages: int = 64) -> float:
    """The share of messages whose code has the highest score at each of its tokens, given the ones before."""
    rng = random.Random(seed)
    right = total = 0
    while total < messages:
        told = message(rng)
        wanted = told.known["code"]
        if wanted is None:
            continue
        turns = [{"role": "user", "content": f"code?\n{told.text}"}, {"role": "assistant", "content": wanted}]
        encoded_chat = tokenizer.apply_chat_template(turns, return_dict=True, return_assistant_tokens_mask=True)
        ids, answer = torch.tensor(encoded_chat["input_ids"]), torch.tensor(encoded_chat["assistant_masks"]).bool()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            best = model(input_ids=ids[None], use_cache=False).logits[0, :-1].argmax(-1)
        right += bool((best == ids[1:])[answer[1:]].all())
        total += 1
    return right / total
