"""Seconds to generate answers to test rows, ftbench and transformers' `generate`, and how many answers are equal.

`python tests/bench/evaluation.py --tuned RUN/model` prints a Markdown table for the embedded model and data, base and
tuned; `--model`, `--data`, `--separator` select others, `--choice N` adds multiple choice among the training rows'
answers for N rows. The baseline is `generate` on left-padded batches in file order, and for a choice one right-padded
row per allowed answer. Both have the same batch size and alternate; the first one changes each round. Values are
medians (range). In bf16, rounding depends on a batch's shape: the last column counts the baseline's answers that stay
equal with half the batch size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from engine.config import schema
from engine.data.prepare import prepare
from engine.data.tokens import Row
from engine.evaluation.choices import Choices
from engine.evaluation.generate import Generator, end_tokens
from engine.evaluation.score import Scorer
from engine.methods.loading import load_weights
from engine.methods.machine import this_machine
from engine.methods.tokenizer import load_tokenizer
from engine.training.collation import Packing

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Answers = Callable[[], list[str]]


@dataclass
class Baseline:
    """transformers, used as in its documentation."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    batch: int
    device: str

    @torch.inference_mode()
    def generated(self, max_new_tokens: int, ends: frozenset[int]) -> list[str]:
        """Greedy answers."""
        pad, found = self.tokenizer.pad_token_id, []
        for start in range(0, len(self.rows), self.batch):
            prompts = [row.prompt for row in self.rows[start : start + self.batch]]
            longest = max(map(len, prompts))
            ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.device)
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]).to(ids)
            out = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=sorted(ends),
            )
            for tokens in out[:, longest:].tolist():
                end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
                found.append(self.tokenizer.decode(tokens[:end], skip_special_tokens=True))
        return found

    @torch.inference_mode()
    def chosen(self, choices: Choices) -> list[str]:
        """The most likely choice of each row."""
        pairs = [(row.prompt, tokens) for row in self.rows for tokens in choices.tokens]
        scores = []
        for start in range(0, len(pairs), self.batch):
            part = pairs[start : start + self.batch]
            longest = max(len(prompt) + len(tokens) for prompt, tokens in part)
            padding = [longest - len(prompt) - len(tokens) for prompt, tokens in part]
            pad = self.tokenizer.pad_token_id
            ids = [prompt + tokens + [pad] * more for (prompt, tokens), more in zip(part, padding, strict=True)]
            mask = [[1] * (longest - more) + [0] * more for more in padding]
            logits = self.model(
                input_ids=torch.tensor(ids, device=self.device), attention_mask=torch.tensor(mask, device=self.device)
            ).logits
            for (prompt, tokens), one in zip(part, logits, strict=True):
                logprobs = one[len(prompt) - 1 : len(prompt) + len(tokens) - 1].float().log_softmax(-1)
                targets = torch.tensor(tokens, device=self.device)[:, None]
                scores.append(float(logprobs.gather(1, targets).double().sum()))
        count = len(choices.tokens)
        best = torch.tensor(scores, dtype=torch.float64).view(-1, count).argmax(1).tolist()
        return [choices.texts[number] for number in best]


def compared(
    baseline: Answers, ours: Answers, rounds: int, clock: Callable[[], float]
) -> tuple[list[float], list[float], int, list[str]]:
    """(seconds of the baseline, of ftbench, equal answers, ftbench's answers), after one warm-up round."""
    seconds: dict[Answers, list[float]] = {baseline: [], ours: []}
    answers: dict[Answers, list[str]] = {}
    for number in range(rounds + 1):
        for work in (baseline, ours) if number % 2 else (ours, baseline):
            started = clock()
            answers[work] = work()
            seconds[work].append(clock() - started)
    equal = sum(a == b for a, b in zip(answers[baseline], answers[ours], strict=True))
    return seconds[baseline][1:], seconds[ours][1:], equal, answers[ours]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def line(case: str, baseline: Answers, ours: Answers, halved: Answers | None, options: argparse.Namespace) -> list[str]:
    """Measure one case and print its row; returns ftbench's answers."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    theirs, mine, equal, answers = compared(baseline, ours, options.rounds, clock)
    ratio = statistics.median(theirs) / statistics.median(mine)
    same = sum(a == b for a, b in zip(baseline(), halved(), strict=True)) if halved else "–"
    row = [case, len(answers), options.batch, spread(theirs), spread(mine), f"{ratio:.2f}", equal, same]
    print("| " + " | ".join(map(str, row)) + " |", flush=True)
    return answers


def loaded(options: argparse.Namespace, tuned: Path | None) -> torch.nn.Module:
    """The base, or a run's artifact in `model/`: a full model or adapters."""
    full = tuned is not None and not (tuned / "adapter_config.json").exists()
    section = schema.Model(id=str(tuned) if full else options.model)
    model: Any = load_weights(section, this_machine(), DTYPES[options.precision])
    if tuned is not None and not full:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, tuned)
    return model.eval()


def measure(options: argparse.Namespace, tuned: Path | None) -> None:
    """The cases of one model."""
    device, tokenizer = this_machine().device, load_tokenizer(schema.Model(id=options.model))
    separator = options.separator.encode().decode("unicode_escape") if options.separator else None
    data = prepare(schema.Data(id=options.data, separator=separator), 512, tokenizer)
    model = loaded(options, tuned)
    case = f"{Path(options.data).name}, {'tuned' if tuned else 'base'}, {options.precision}"
    ends, rows = end_tokens(tokenizer, model, data.train), data.test[: options.rows]

    def scorer() -> Scorer:
        generator = Generator(tokenizer, options.tokens, options.batch, device, ends, lambda code, text: print(text))
        return Scorer("choice", generator, Packing("padded", 2048), tokenizer.pad_token_id, device)

    if rows:
        baseline, ours = Baseline(model, tokenizer, rows, options.batch, device), scorer().generator
        half = Baseline(model, tokenizer, rows, max(1, options.batch // 2), device)
        answers = line(
            case,
            lambda: baseline.generated(options.tokens, ends),
            lambda: ours.answers(model, rows),
            lambda: half.generated(options.tokens, ends),
            options,
        )
        sizes = sorted(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"])
        print(f"tokens per answer: {sizes[0]}, median {sizes[len(sizes) // 2]}, {sizes[-1]}", file=sys.stderr)
    if options.choice:
        sample, choices, scores = data.test[: options.choice], Choices.of(data.train), scorer()
        scores.choose_from(data.train, sample)
        chooser, every = scores.chooser, Baseline(model, tokenizer, sample, options.batch, device)
        assert chooser is not None
        case += f", choice of {len(choices.texts)}"
        line(case, lambda: every.chosen(choices), lambda: chooser.answers(model, sample), None, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="name, folder or Hub id of the base model")
    parser.add_argument("--tuned", type=Path, help="the model/ folder of a finished run of that model and data")
    parser.add_argument("--data", default="tickets")
    parser.add_argument("--separator", help="for plain text, as data.separator")
    parser.add_argument("--rows", type=int, default=300, help="test rows to answer")
    parser.add_argument("--tokens", type=int, default=96, help="maximum tokens per answer")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--choice", type=int, default=0, metavar="N", help="rows for multiple choice")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only-tuned", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, on a machine with other work")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    print("| case | rows | batch | generate, s | ftbench, s | speedup | equal answers ", end="")
    print("| equal with half the batch, generate |")
    print("|---" * 8 + "|", flush=True)
    if not options.only_tuned:
        measure(options, None)
    if options.tuned:
        measure(options, options.tuned)


if __name__ == "__main__":
    main()
