"""Generate answers: greedy, batched, left-padded, stopping at the end token.

Greedy decoding takes the most likely token at every step. The model's generation config (temperature, penalties) is not
applied, so that base and tuned model are compared under the same settings.

transformers' `generate` answers on every device. Not generated here: choices are scored (`choice_scoring`), and the
replies to a user are streamed elsewhere.

transformers' `generate_batch` (5.24) is not used. It needs FlashAttention 2 or 3 on CUDA: otherwise each step computes
attention of all rows to the keys of all rows. It refuses layers with a
state, reserves 90% of a GPU's free memory for its cache, and logs errors of its thread instead of raising them, so that
a batch that does not fit would end as missing answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from engine.config.device_defaults import MAX_TOKENS, prefill_columns
from engine.config.model_config import ANSWERED_ALONE, length_limit, text_type
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.forward import (
    column_multiple,
    grouped_query_attention,
    halved,
    last_logits,
    left_padded,
    reads_prompts_in_parts,
    within_memory,
    without_gradients,
)
from engine.evaluation.preflight import check_prompts
from engine.methods.adapters import unwrap_peft
from engine.training.loss import supports_logits_to_keep
from engine.training.ranks import weights_are_sharded

Warn = Callable[[str, str], None]
"""Called with the code and text of a warning."""
TOO_LARGE = "a single prompt does not fit in memory during generation"


@dataclass
class Generator:
    """Generates answers, with the same settings before and after training."""

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    batch: int
    device: str
    ends: frozenset[int]
    """Tokens that end an answer."""
    warn: Warn
    warned_of_one_by_one: bool = False
    """The warning is given once, not with every call."""

    def answers(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        """Generate the answer to each row's prompt as text, in order; see `answer_tokens`."""
        return self.texts(self.answer_tokens(model, rows, progress))

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The text of each answer, without special tokens."""
        return [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]

    def has_ended(self, answer: Sequence[int]) -> bool:
        """Whether an answer of `answer_tokens` was ended by an end token instead of by `max_new_tokens`."""
        return len(answer) < self.max_new_tokens

    def answer_tokens(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[list[int]]:
        """Generate the tokens of the answer to each row's prompt, in order, without the end token.

        An answer of `max_new_tokens` tokens did not end. Halves the batch size on out-of-memory. `progress` is called
        with the number of finished rows after each token; an exception that it raises ends the generation.
        """
        check_prompts(rows)
        prompts = [row.prompt for row in rows]
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))  # most memory first
        alone = text_type(unwrap_peft(model).config.to_dict()) in ANSWERED_ALONE
        if alone and not self.warned_of_one_by_one:
            self.warned_of_one_by_one = True
            text = f"{type(unwrap_peft(model)).__name__} answers otherwise with padding: one prompt at a time, slower"
            self.warn("evaluation.one_by_one", text)
        answers: dict[int, list[int]] = {}
        kinds = self._length_kinds(model, prompts)
        most = 0

        def finished(count: int) -> None:
            nonlocal most
            most = max(most, len(answers) + count)  # a batch that is halved begins again
            progress(most)

        with grouped_query_attention(model):
            while len(answers) < len(order):
                batch = order[len(answers) : len(answers) + (1 if alone else self.batch)]
                if kind := kinds[batch[0]]:  # their prompts are not read in parts
                    most_rows = max(1, MAX_TOKENS[self.device] // (len(prompts[batch[0]]) + self.max_new_tokens))
                    batch = [number for number in batch[:most_rows] if kinds[number] == kind]
                asked = [prompts[number] for number in batch]
                tokens = within_memory(lambda: self._generate(model, asked, finished))  # noqa: B023
                if tokens is None:
                    self.batch = halved(len(batch), TOO_LARGE)
                    continue
                answers.update(zip(batch, tokens, strict=True))
                finished(0)
        return [answers[number] for number in range(len(prompts))]

    def answer_tokens_alone(self, model: torch.nn.Module, rows: Sequence[Row]) -> list[list[int]]:
        """The same for each prompt alone, without padding, to compare with."""
        return [self._generate(model, [row.prompt], lambda done: None)[0] for row in rows]

    def _length_kinds(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> list[int]:
        """For each prompt 0 if its answer stays below lengths with other RoPE frequencies, else a number that prompts
        have in common if `generate` answers them together as it answers each alone: its length if the answer may reach
        such lengths. There Phi-3 and others compute the whole row again, but only if it is the longest of its batch
        (`prepare_inputs_for_generation`).
        """
        limit = length_limit(unwrap_peft(model).config.to_dict())
        if limit is None:
            return [0] * len(prompts)
        lengths = map(len, prompts)
        return [0 if length + self.max_new_tokens <= limit else min(length, limit + 1) for length in lengths]

    @without_gradients
    def _generate(
        self, model: torch.nn.Module, prompts: list[list[int]], finished: Callable[[int], None]
    ) -> list[list[int]]:
        by_length = any(self._length_kinds(model, prompts))  # parts of a prompt, or padding, would change its RoPE
        multiple = 1 if by_length or len(prompts) == 1 else column_multiple(model, self.device)
        ids, mask, _ = left_padded(prompts, self.tokenizer.pad_token_id, self.device, multiple)
        columns = prefill_columns(len(prompts), ids.shape[1], self.device)
        whole = by_length or not reads_prompts_in_parts(model)
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.ends),
            prefill_chunk_size=columns if columns < ids.shape[1] and not whole else None,
            disable_compile=True,
        )
        with without_own_settings(model):
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([_FinishedRows(self.ends, finished)]),
                synced_gpus=weights_are_sharded(),
                **(last_logits(self.device) if supports_logits_to_keep(model) else {}),
            )
        answers = out[:, ids.shape[1] :].tolist()
        return [list(takewhile(lambda token: token not in self.ends, answer)) for answer in answers]


@contextmanager
def without_own_settings(model: torch.nn.Module) -> Iterator[None]:
    """Context in which `generate` uses only the settings of its caller.

    By default `generate` takes settings that its caller does not set from the model's generation config. On a GPU it
    also replaces `grouped_mm` of a mixture of experts by `batched_mm` while it decodes, which copies the weights of
    every expert of every row (transformers 5.24, `_optimize_model_for_decode` of generation/utils.py): 19 GB for 256
    rows of Qwen3-30B-A3B.
    """
    inner: Any = unwrap_peft(model)
    own = inner.generation_config
    inner.generation_config, inner._optimize_model_for_decode = GenerationConfig(), nullcontext
    try:
        yield
    finally:
        inner.generation_config = own
        del inner._optimize_model_for_decode


class _FinishedRows(StoppingCriteria):
    """Calls `report` with the number of finished rows after each token; ends no row."""

    def __init__(self, ends: frozenset[int], report: Callable[[int], None]) -> None:
        self.ends, self.report = sorted(ends), report
        self.finished: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: object, **options: object) -> torch.Tensor:
        """input_ids (B, T) -> False for each row, (B,)."""
        ended = torch.isin(input_ids[:, -1], torch.tensor(self.ends, dtype=input_ids.dtype, device=input_ids.device))
        self.finished = ended if self.finished is None else self.finished | ended
        self.report(int(self.finished.sum()))
        return torch.zeros_like(ended)


def end_tokens(tokenizer: PreTrainedTokenizerBase, model: torch.nn.Module, rows: Sequence[Row]) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and the model's EOS tokens, and the last token of trained answers."""
    ends = {tokenizer.eos_token_id}
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends |= set(own) if isinstance(own, list) else {own} if own is not None else set()
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for row in rows[:100]:
        trained = [label for label in row.labels if label != IGNORE_INDEX]
        if trained and trained[-1] in special:
            ends.add(trained[-1])
    return frozenset(ends - {None})
