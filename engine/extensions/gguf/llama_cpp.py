"""GGUF files: run in llama.cpp on token ids, quantized, checked on a run's test rows, and their Modelfile for Ollama.

Uses the C interface through the bindings in the tools' folder; sampling and chat handling of the bindings are not used.

Ollama does not run Jinja. The text that a chat template puts around each message is found by rendering conversations of
marked messages; the resulting template is used only if it renders a sample conversation to the same text.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.metric_specs import metric_spec
from engine.config.schema import Evaluation
from engine.data.chat_template import ChatTemplate, render_in_child
from engine.data.items import all_rows
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.generate import end_tokens
from engine.evaluation.metrics import Choices, RowLoss, best_score
from engine.export.export_source import ScoredRows
from engine.extensions.gguf.gguf_tools import LIBRARY, require_tools
from engine.runs.run.predictions import ScoredItem
from engine.training.batches import loss_weight, target_weights, targets_of

FILE_TYPES = {"q4_k_m": 15, "q8_0": 7}
"""`llama_ftype` in llama.h."""


def _bindings() -> tuple[Any, Any]:
    """(the C library, the foreign function interface)."""
    folder = str(require_tools() / LIBRARY.folder)
    if folder not in sys.path:
        sys.path.append(folder)
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib  # only on the path that was just set

    library = get_lib()
    library.llama_backend_init()
    return library, get_ffi()


def quantize(source: Path, target: Path, kind: str) -> None:
    """Quantize a GGUF file with 16-bit weights. Raises RunFailed if llama.cpp reports an error."""
    library, ffi = _bindings()
    settings = ffi.new("llama_model_quantize_params *", library.llama_model_quantize_default_params())
    settings.ftype = FILE_TYPES[kind]
    settings.nthread = len(os.sched_getaffinity(0))
    status = library.llama_model_quantize(os.fsencode(source), os.fsencode(target), settings)
    if status:
        raise RunFailed(f"llama.cpp could not quantize to {kind} (status {status})", "export.gguf_quantization_failed")


class LlamaCpp:
    """A loaded GGUF file with one sequence. Use as a context manager."""

    def __init__(self, file: Path, context: int) -> None:
        """context: tokens of the longest sequence. Raises RunFailed if llama.cpp cannot load the file."""
        self.library, self.ffi = _bindings()
        self.context = context
        settings = self.library.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = self.library.llama_model_load_from_file(os.fsencode(file), settings)
        if self._model == self.ffi.NULL:
            raise RunFailed(f"llama.cpp cannot load {file.name}", "export.gguf_unreadable")
        options = self.library.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = context
        options.n_threads = options.n_threads_batch = len(os.sched_getaffinity(0))
        self._context = self.library.llama_init_from_model(self._model, options)
        if self._context == self.ffi.NULL:
            raise RunFailed("llama.cpp cannot create a context", "export.gguf_unreadable")
        self._vocabulary = self.library.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(self.library.llama_vocab_n_tokens(self._vocabulary))

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.library.llama_free(self._context)
        self.library.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text with special tokens in it, none added."""
        encoded = text.encode()
        tokens = self.ffi.new("llama_token[]", len(encoded) + 16)
        count = self.library.llama_tokenize(
            self._vocabulary, encoded, len(encoded), tokens, len(encoded) + 16, False, True
        )
        return [int(tokens[place]) for place in range(count)]

    def ends_generation(self, token: int) -> bool:
        """Whether llama.cpp stops at this token by itself."""
        return bool(self.library.llama_vocab_is_eog(self._vocabulary, token))

    def chat_template(self) -> str:
        """The chat template in the file; '' without one."""
        template = self.library.llama_model_chat_template(self._model, self.ffi.NULL)
        return "" if template == self.ffi.NULL else self.ffi.string(template).decode()

    def logits(self, tokens: Sequence[int], places: Sequence[int]) -> torch.Tensor:
        """(len(places), V): logits after the tokens at these places of a sequence, in float32."""
        self._clear()
        self._decode(tokens, 0, set(places))
        return torch.stack([self._row(place) for place in places])

    def answer(self, prompt: Sequence[int], ends: frozenset[int], max_new_tokens: int) -> list[int]:
        """The greedy answer without its end token."""
        self._clear()
        self._decode(prompt, 0, {len(prompt) - 1})
        answer: list[int] = []
        last = len(prompt) - 1
        while len(answer) < max_new_tokens:
            token = int(self._row(last).argmax())
            if token in ends:
                return answer
            answer.append(token)
            self._decode([token], len(prompt) + len(answer) - 1, {0})
            last = 0
        return answer

    def _clear(self) -> None:
        self.library.llama_memory_clear(self.library.llama_get_memory(self._context), True)

    def _decode(self, tokens: Sequence[int], start: int, wanted: set[int]) -> None:
        batch = self.library.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for place, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, start + place
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
                batch.logits[place] = place in wanted
            status = self.library.llama_decode(self._context, batch)
        finally:
            self.library.llama_batch_free(batch)
        if status:
            raise RunFailed(f"llama.cpp could not decode (status {status})", "export.gguf_decode_failed")

    def _row(self, place: int) -> torch.Tensor:
        pointer = self.library.llama_get_logits_ith(self._context, place)
        values = np.frombuffer(self.ffi.buffer(pointer, 4 * self.vocabulary_size), dtype=np.float32)
        return torch.from_numpy(values.copy())


FILE = "model.gguf"


def open_gguf(folder: Path, scored: ScoredRows, evaluation: Evaluation) -> LlamaCpp:
    """Load the file with room for the longest row and the longest answer."""
    rows = all_rows(scored.items) or [scored.rows.train[0]]
    longest = max(max(len(row.input_ids), len(row.prompt) + evaluation.max_new_tokens) for row in rows)
    return LlamaCpp(folder / FILE, longest + 8)


def row_logits(model: LlamaCpp, row: Row) -> torch.Tensor:
    """(K, V): logits that predict the row's K tokens in the loss."""
    return model.logits(row.input_ids, [place for place, _ in _in_loss(row)])


def _in_loss(row: Row) -> Iterator[tuple[int, int]]:
    """(place whose logits predict it, token) of every token in the loss."""
    for place, target in enumerate(targets_of(row)):
        if target != IGNORE_INDEX:
            yield place, target


def defects(model: LlamaCpp, tokenizer: PreTrainedTokenizerBase, scored: ScoredRows) -> list[Notice]:
    """What llama.cpp does differently from training: prompt tokens, chat template, end tokens."""
    problems, different = [], []
    for item in scored.items:
        prompt = list(item.row.prompt)
        text = tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        again = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        # Prompts that the tokenizer itself does not restore from their text are not compared.
        if again == prompt and model.tokenize(text) != prompt:
            different.append(item.row.where)
    if different:
        text = f"llama.cpp gives other prompt tokens in {len(different)} of {len(scored.items)} test items"
        problems.append(Notice("export.other_prompts", f"{text} (first: {different[0]})"))
    if model.chat_template() != (tokenizer.chat_template or ""):
        problems.append(Notice("export.other_template", "the chat template in the file is not that of training"))
    lost = [token for token in end_tokens(tokenizer, None, scored.rows.train) if not model.ends_generation(token)]
    if lost:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(lost))))
        problems.append(Notice("export.lost_end_token", f"llama.cpp does not stop at the end token {names}"))
    return problems


def answer(
    model: LlamaCpp,
    tokenizer: PreTrainedTokenizerBase,
    scored: ScoredRows,
    evaluation: Evaluation,
    progress: Any,
) -> tuple[list[ScoredItem], list[list[int]], float]:
    """(items, generated tokens of each answer, seconds of generation)."""
    losses = []
    for item in scored.items:
        of_rows = [_row_loss(model, row) for row in item.rows]
        losses.append(RowLoss(*(sum(part) / len(of_rows) for part in zip(*of_rows, strict=True))))
    metric = metric_spec(evaluation.metric)
    if not metric.needs_answers:
        return [ScoredItem.of(loss) for loss in losses], [], 0.0
    started, answers, outputs = time.monotonic(), [], []
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ends = frozenset(token for token in special if model.ends_generation(token))
    choices = Choices.of(scored.rows.train) if metric.picks_from_choices else None
    for done, item in enumerate(scored.items, 1):
        if choices is not None:
            outputs.append(_likeliest(model, choices, item.row))
        else:
            answers.append(model.answer(item.row.prompt, ends, evaluation.max_new_tokens))
            outputs.append(tokenizer.decode(answers[-1], skip_special_tokens=True))
        progress("answering test rows", done, len(scored.items))
    items = [
        ScoredItem.of(loss, output, best_score(evaluation.metric, output, item.references, evaluation.reasoning_tags))
        for loss, output, item in zip(losses, outputs, scored.items, strict=True)
    ]
    return items, answers, time.monotonic() - started


def _likeliest(model: LlamaCpp, choices: Choices, row: Row) -> str:
    """The allowed answer with the highest log-likelihood, scored one by one."""

    def score(tokens: Sequence[int]) -> float:
        start = len(row.prompt) - 1
        logits = model.logits([*row.prompt, *tokens], range(start, start + len(tokens)))
        picked = torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens)[:, None])
        return float(picked.sum())

    best = max(range(len(choices.tokens)), key=lambda number: score(choices.tokens[number]))
    return choices.texts[best]


def _row_loss(model: LlamaCpp, row: Row) -> RowLoss:
    targets = torch.tensor([token for _, token in _in_loss(row)])
    losses = torch.nn.functional.cross_entropy(row_logits(model, row), targets, reduction="none").double()
    weights = [
        weight for weight, target in zip(target_weights(row), targets_of(row), strict=True) if target != IGNORE_INDEX
    ]
    if row.weights is not None:
        losses *= torch.tensor(weights)
    return RowLoss(float(losses.sum()), len(targets), loss_weight(row))


def tensor_types(folder: Path) -> dict[str, int]:
    """Number of tensors of each type in the file: `{"Q4_K": 24, "F32": 9}`."""
    return dict(Counter(tensor.tensor_type.name for tensor in GGUFReader(folder / FILE).tensors).most_common())


SAMPLE = [("system", "Be brief."), ("user", "One?"), ("assistant", "1"), ("user", "Two?")]


@dataclass(frozen=True)
class TemplateTexts:
    """The text that a chat template writes before and after a message of each role, and before the answer."""

    around: dict[str, tuple[str, str]]
    generation: str
    default_system: str
    """The system prompt that the template writes if a conversation has none, with the text around it."""

    def go_template(self) -> str:
        """The template in Go's syntax."""
        system = self.around["system"]
        shown = f"{{{{ if .System }}}}{system[0]}{{{{ .System }}}}{system[1]}"
        shown += f"{{{{ else }}}}{self.default_system}{{{{ end }}}}" if self.default_system else "{{ end }}"
        turns = []
        for role in ("user", "assistant"):
            before, after = self.around[role]
            turns.append(f'{{{{ if eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}{{{{ end }}}}')
        return f"{shown}{{{{ range .Messages }}}}{''.join(turns)}{{{{ end }}}}{self.generation}"

    def render(self, messages: list[tuple[str, str]]) -> str:
        """What Ollama makes of a conversation."""
        system = "".join(text for role, text in messages if role == "system")
        before, after = self.around["system"]
        shown = f"{before}{system}{after}" if system else self.default_system
        turns = [f"{self.around[role][0]}{text}{self.around[role][1]}" for role, text in messages if role != "system"]
        return f"{shown}{''.join(turns)}{self.generation}"


def template_texts(tokenizer: Any) -> TemplateTexts | None:
    """The texts of the tokenizer's chat template; None if it is not made of such turns."""
    try:
        return render_in_child(tokenizer, _texts_of)
    except UserError:  # invalid Jinja, or a template that exceeds a limit
        return None


def _texts_of(template: ChatTemplate) -> TemplateTexts | None:
    def rendered(messages: list[tuple[str, str]], generation: bool = False) -> str:
        return template.text([{"role": role, "content": text} for role, text in messages], None, ask=generation)

    try:
        with_system = rendered([("system", "⟦s⟧"), ("user", "⟦u⟧"), ("assistant", "⟦a⟧"), ("user", "⟦v⟧")])
        alone = rendered([("user", "⟦u⟧"), ("assistant", "⟦a⟧"), ("user", "⟦v⟧")])
        generation = rendered([("user", "⟦u⟧")], generation=True).removeprefix(rendered([("user", "⟦u⟧")]))
        before_system, rest = with_system.split("⟦s⟧")
        system_to_user, rest = rest.split("⟦u⟧")
        user_to_assistant, rest = rest.split("⟦a⟧")
        assistant_to_user, user_end = rest.split("⟦v⟧")
        assistant_end = rendered([("user", "⟦u⟧"), ("assistant", "⟦a⟧")]).split("⟦a⟧")[1]
        user_start = assistant_to_user.removeprefix(assistant_end)
        default = alone.split("⟦u⟧")[0].removesuffix(user_start)
        candidate = TemplateTexts(
            around={
                "system": (before_system, system_to_user.removesuffix(user_start)),
                "user": (user_start, user_end),
                "assistant": (user_to_assistant.removeprefix(user_end), assistant_end),
            },
            generation=generation,
            default_system=default,
        )
        samples = (SAMPLE, SAMPLE[1:], SAMPLE[1:2])
        same = all(candidate.render(sample) == rendered(sample, generation=True) for sample in samples)
    except (TemplateError, ValueError, TypeError):  # a template without a system role, or one that changes the texts
        return None
    texts = "".join([*map("".join, candidate.around.values()), candidate.default_system, candidate.generation])
    return candidate if same and "{{" not in texts and '"""' not in texts else None


def modelfile(tokenizer: Any, ends: list[int], system: str = "") -> str:
    """The text of the Modelfile. Without TEMPLATE, Ollama uses the template in the GGUF file, if it knows it.

    system: of the training rows; requests without a system prompt get it.
    """
    lines = [f"FROM ./{FILE}"]
    texts = template_texts(tokenizer) if tokenizer.chat_template else None
    if texts is not None:
        lines.append(f'TEMPLATE """{texts.go_template()}"""')
    else:
        lines.append("# The chat template could not be expressed in Ollama's template language: compare its prompts.")
    if system and '"""' not in system:
        lines.append(f'SYSTEM """{system}"""')
    elif system:
        lines.append('# Requests need the system prompt of the training rows; it contains """, which SYSTEM cannot.')
    lines += [f"PARAMETER stop {json.dumps(token)}" for token in tokenizer.convert_ids_to_tokens(ends)]
    return "\n".join([*lines, "PARAMETER temperature 0", ""])
