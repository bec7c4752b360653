"""Seconds to answer test rows by ftbench and by transformers' three decoders, and how many answers are equal.

`python tools/evaluation.py --tuned RUN/model` prints a Markdown table for the embedded model and data, base and
tuned; `--model`, `--data`, `--separator` select others, `--choice N` adds multiple choice among the training rows'
answers for N rows. `--ways` selects the decoders: `generate` on left-padded batches in file order with its default
cache, with a static cache, and `generate_batch` (continuous batching with a paged cache); for a choice, one
right-padded row per allowed answer. All have the same batch size, where they have one, and alternate; the first one
changes each round. Values are medians (range). In bf16, rounding depends on a batch's shape: `generate, half the batch`
shows how many of `generate`'s answers stay equal.
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
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from engine.config import schema
from engine.data.items import evaluation_items
from engine.data.prepare import prepare
from engine.data.rows import Row
from engine.evaluation.generate import Generator, end_tokens
from engine.evaluation.metrics import Choices
from engine.evaluation.score import Scorer
from engine.methods.loading import load_pretrained
from engine.methods.machine import this_machine
from engine.methods.model_source import load_tokenizer
from engine.training.batches import Packing

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Answers = Callable[[], list[str]]


@dataclass
class Transformers:
    """transformers, used as in its documentation."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    rows: Sequence[Row]
    batch: int
    device: str

    @torch.inference_mode()
    def generated(self, max_new_tokens: int, ends: frozenset[int], cache: str = "dynamic") -> list[str]:
        """Greedy answers of `generate`."""
        pad = self.tokenizer.pad_token_id
        answers: list[str] = []
        settings = self._settings(max_new_tokens, ends, cache)
        for start in range(0, len(self.rows), self.batch):
            prompts = [row.prompt for row in self.rows[start : start + self.batch]]
            longest = max(map(len, prompts))
            ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.device)
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]).to(ids)
            out = self.model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
            answers.extend(self._text(tokens, ends) for tokens in out[:, longest:].tolist())
        return answers

    @torch.inference_mode()
    def generated_continuously(self, max_new_tokens: int, ends: frozenset[int]) -> list[str]:
        """Greedy answers of `generate_batch`, which chooses the batch size itself."""
        before = self.model.config._attn_implementation
        settings = self._settings(max_new_tokens, ends, None)
        outputs = self.model.generate_batch([list(row.prompt) for row in self.rows], generation_config=settings)
        assert self.model.config._attn_implementation == before
        answers = sorted(outputs.items(), key=lambda item: int(item[0].removeprefix("req_")))
        return [self._text(answer.generated_tokens, ends) for _, answer in answers]

    def _settings(self, max_new_tokens: int, ends: frozenset[int], cache: str | None) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(ends),
            cache_implementation=None if cache == "dynamic" else cache,
        )

    def _text(self, tokens: Sequence[int], ends: frozenset[int]) -> str:
        end = next((place for place, token in enumerate(tokens) if token in ends), len(tokens))
        return str(self.tokenizer.decode(tokens[:end], skip_special_tokens=True))

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
            for (prompt, tokens), row_logits in zip(part, logits, strict=True):
                logprobs = row_logits[len(prompt) - 1 : len(prompt) + len(tokens) - 1].float().log_softmax(-1)
                targets = torch.tensor(tokens, device=self.device)[:, None]
                scores.append(float(logprobs.gather(1, targets).double().sum()))
        count = len(choices.tokens)
        best = torch.tensor(scores, dtype=torch.float64).view(-1, count).argmax(1).tolist()
        return [choices.texts[number] for number in best]


def compared(
    ways: dict[str, Answers], rounds: int, clock: Callable[[], float]
) -> tuple[dict[str, list[float]], dict[str, list[str]]]:
    """Seconds per round and answers of each way, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, list[str]] = {}
    for number in range(rounds + 1):
        order = list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]
        for name in order:
            started = clock()
            answers[name] = ways[name]()
            seconds[name].append(clock() - started)
    return {name: values[1:] for name, values in seconds.items()}, answers


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def print_case(case: str, ways: dict[str, Answers], options: argparse.Namespace) -> list[str]:
    """Measure one case and print a line per way; the first way is ftbench, the second one the reference."""
    seconds, answers = compared(ways, options.rounds, time.process_time if options.cpu_time else time.perf_counter)
    ours, reference = list(ways)[:2]
    for name in ways:
        ratio = statistics.median(seconds[name]) / statistics.median(seconds[ours])
        equal = sum(a == b for a, b in zip(answers[reference], answers[name], strict=True))
        row = [case, len(answers[name]), options.batch, name, spread(seconds[name]), f"{ratio:.2f}", equal]
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
        case = ""
    return answers[ours]


def loaded(options: argparse.Namespace, tuned: Path | None) -> torch.nn.Module:
    """The base, or a run's artifact in `model/`: a full model or adapters."""
    full = tuned is not None and not (tuned / "adapter_config.json").exists()
    section = schema.Model(id=str(tuned) if full else options.model)
    model: Any = load_pretrained(section, this_machine(), DTYPES[options.precision])
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
        generator = scorer().generator
        baseline = Transformers(model, tokenizer, rows, options.batch, device)
        half = Transformers(model, tokenizer, rows, max(1, options.batch // 2), device)
        ways: dict[str, Answers] = {
            "ftbench": lambda: generator.answers(model, rows),
            "generate": lambda: baseline.generated(options.tokens, ends),
            "generate, static cache": lambda: baseline.generated(options.tokens, ends, "static"),
            "generate_batch": lambda: baseline.generated_continuously(options.tokens, ends),
            "generate, half the batch": lambda: half.generated(options.tokens, ends),
        }
        chosen = ["ftbench", "generate", *options.ways]
        answers = print_case(case, {name: way for name, way in ways.items() if name in chosen}, options)
        sizes = sorted(len(ids) for ids in tokenizer(answers, add_special_tokens=False)["input_ids"])
        print(f"tokens per answer: {sizes[0]}, median {sizes[len(sizes) // 2]}, {sizes[-1]}", file=sys.stderr)
    if options.choice:
        sample, choices, scores = data.test[: options.choice], Choices.of(data.train), scorer()
        scores.choose_from(Choices.of(data.train), evaluation_items(sample))
        chooser, every = scores.chooser, Transformers(model, tokenizer, sample, options.batch, device)
        assert chooser is not None
        case += f", choice of {len(choices.texts)}"
        print_case(
            case,
            {"ftbench": lambda: chooser.answers(model, sample), "one row per choice": lambda: every.chosen(choices)},
            options,
        )


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
    parser.add_argument(
        "--ways",
        nargs="*",
        default=["generate, static cache", "generate_batch", "generate, half the batch"],
        help="decoders of transformers to measure besides generate",
    )
    parser.add_argument("--only-tuned", action="store_true")
    parser.add_argument("--cpu-time", action="store_true", help="measure CPU time, on a machine with other work")
    options = parser.parse_args()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    print("| case | rows | batch | decoder | seconds | ÷ ftbench | answers equal to generate's |")
    print("|---" * 7 + "|", flush=True)
    if not options.only_tuned:
        measure(options, None)
    if options.tuned:
        measure(options, options.tuned)


if __name__ == "__main__":
    main()
