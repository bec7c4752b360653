"""Load the models of finished runs: one copy of each base for all adapters on it, each verified to be active."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import peft
import psutil
import torch

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.method_specs import MethodSpec, method_spec
from engine.config.schema import Config, Model
from engine.data.detection import system_prompt, training_examples
from engine.data.prompts import PROBE, PromptEncoder
from engine.data.rows import Example, Row
from engine.evaluation.generate import end_tokens
from engine.export.export_source import refuse_other_base
from engine.extensions.chat.chat_client import NOT_FINISHED, ChatColumn, Conversation, MemoryUse, WeightsMemory
from engine.extensions.chat.generation import ConversationCache
from engine.methods import method
from engine.methods.adapters import copy_adapter, multiply_in_input_dtype, own_targets
from engine.methods.loading import load_pretrained
from engine.methods.machine import Machine, is_out_of_memory
from engine.methods.model_source import config_of, fingerprint, load_tokenizer, maximum_positions
from engine.methods.weights import stored_bytes
from engine.runs.run.folder import short_name
from engine.runs.run.run_dir import RunDir, finished_result, read_frozen
from engine.training.guards import free_memory


class BaseCopy:
    """A loaded base. The first adapter wraps it with PEFT in place: its weights are never copied."""

    def __init__(self, name: str, network: torch.nn.Module) -> None:
        self.name = name
        self.network = network.eval()
        self.bytes = stored_bytes(network)
        self.adapters: dict[str, int] = {}
        """Key of an adapter -> its size in bytes."""

    def attach(self, key: str, folder: Path) -> None:
        """Load an adapter from its folder."""
        before = stored_bytes(self.network)
        with own_targets():
            if isinstance(self.network, peft.PeftModel):
                self.network.load_adapter(str(folder), adapter_name=key)
            else:
                self.network = peft.PeftModel.from_pretrained(self.network, str(folder), adapter_name=key)
        copy_adapter(self.network, folder, key)  # all of it
        multiply_in_input_dtype(self.network)  # as in training and evaluation
        self.network.eval()
        self.adapters[key] = stored_bytes(self.network) - before

    def activate(self, adapter: str | None) -> torch.nn.Module:
        """The network with this adapter, or with all adapters disabled; it stays so until the next call."""
        if adapter is not None:
            self.network.base_model.enable_adapter_layers()
            self.network.set_adapter(adapter)
        elif self.adapters:
            self.network.base_model.disable_adapter_layers()
        return self.network

    @property
    def part(self) -> WeightsMemory:
        """Its memory."""
        return WeightsMemory(
            name=self.name,
            bytes=self.bytes,
            adapters=len(self.adapters),
            adapter_bytes=sum(self.adapters.values()),
        )


TOLERANCE = 1e-3
"""Relative to the largest logit: rounding differs between kernels, a trained adapter changes much more."""


@torch.inference_mode()
def logits_of(network: torch.nn.Module, prompt: list[int], device: str) -> torch.Tensor:
    """Logits (T, V) of a prompt in float32, on the CPU."""
    ids = torch.tensor([prompt], device=device)
    return network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].float().cpu()


def largest_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Largest absolute difference, relative to the largest logit."""
    return float((one - other).abs().max() / other.abs().max())


def verify(
    copy: BaseCopy, before: torch.Tensor, prompt: list[int], device: str, titles: dict[str, str]
) -> list[Notice]:
    """Defects of a base with its adapters.

    before: logits of the base before an adapter was attached. titles: key of an adapter -> its column's title.
    """
    defects = []
    logits = logits_of(copy.activate(None), prompt, device)
    if largest_difference(logits, before) > TOLERANCE:
        text = f"{copy.name} is not the base model while adapters are loaded: its logits differ from those before"
        defects.append(Notice("chat.base_changed", text))
    for key in copy.adapters:
        logits = logits_of(copy.activate(key), prompt, device)
        if largest_difference(logits, before) <= TOLERANCE:
            text = f"the adapter of {titles[key]} is not active: its logits equal those of the base model"
            defects.append(Notice("chat.adapter_inactive", text))
    return defects


def prompt_of(example: Example) -> Conversation:
    """A row's conversation without the answer to its last prompt."""
    messages = (example.messages or [])[:-1]
    return Conversation(messages=messages, tools=example.tools, prompt=example.prompt)


Progress = Callable[[str], None]
BASE, BASE_4BIT = "base", "4-bit base"


@dataclass(frozen=True)
class ChatRun:
    """A finished run that answers."""

    key: str
    """Of its column and adapter: `lora-3f2a`."""
    directory: RunDir
    config: Config
    spec: MethodSpec
    weights: str
    """Fingerprint of the base's weights."""

    @property
    def base_identity(self) -> tuple[Any, ...]:
        """Equal for runs that can share a copy of the base: the same weights, loaded in the same way."""
        config = self.config
        four_bit = config.quantization if self.spec.quantizes_base else None
        precision = config.train.precision
        return self.weights, config.model.attention, self.spec.module, four_bit, precision


@dataclass
class Responder:
    """A column: a base, a base with an adapter, or a full model, and what it needs to answer."""

    column: ChatColumn
    copy: BaseCopy
    adapter: str | None
    tokenizer: Any
    encoder: PromptEncoder
    ends: frozenset[int]
    positions: int | None
    """Maximum sequence length of the model."""
    kept: ConversationCache = field(default_factory=ConversationCache)


@dataclass
class PromptSettings:
    """Tokenizer, end tokens and system prompt of a run: of the model and of the training rows."""

    tokenizer: Any
    encoder: PromptEncoder
    ends: frozenset[int]
    system: str


def tried_runs(paths: Sequence[Path]) -> list[ChatRun]:
    """The runs to try, with different keys. Raises UserError as `tried_run`."""
    counts = Counter(short_name(path.name) for path in paths)
    return [tried_run(path, path.name if counts[short_name(path.name)] > 1 else "") for path in dict.fromkeys(paths)]


def tried_run(path: Path, key: str = "") -> ChatRun:
    """A run to try; its key is its short name by default.

    Raises UserError for an unfinished run, a run without a model, and if its base has changed.
    """
    run = RunDir(path)
    result = finished_result(run, NOT_FINISHED)
    config = read_frozen(run).with_metric(result.metric).config
    spec = method_spec(config.method)
    if not any(run.model.glob("*.safetensors")):
        raise UserError("the run has no model", str(run.model), "try another run", "chat.no_model")
    refuse_other_base(config.model, result, spec)
    weights = fingerprint(config.model, config_of(config.model))
    return ChatRun(key or short_name(run.name), run, config, spec, weights)


class LoadedModels:
    """Loads and verifies one session's models: all columns, in the order in which they are shown and answer.

    Raises UserError for a model that this device cannot load, and RunFailed out of memory.
    """

    def __init__(self, runs: Sequence[ChatRun], machine: Machine, progress: Progress, with_base: bool) -> None:
        self.runs, self.machine, self.progress = runs, machine, progress
        self.responders: dict[str, Responder] = {}
        self.copies: list[BaseCopy] = []
        self.notices: list[Notice] = []
        self.loaded_for: dict[str, str] = {}
        """Key of a base column -> name of the run that its base was loaded for."""
        self._texts: dict[str, PromptSettings] = {}
        self._base_logits: dict[str, torch.Tensor] = {}
        """Fingerprint of a base's weights -> its logits (T, V) of the verification."""
        # `QLoRA`; where a method occurs several times, with the end of the run's name: `LoRA 3f2a`.
        counts = Counter(run.spec.name for run in runs)
        self._titles = {
            run.directory: run.spec.title + (f" {run.directory.name[-4:]}" if counts[run.spec.name] > 1 else "")
            for run in runs
        }
        try:
            self._load(with_base)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            text = f"not enough memory on {machine.name} for these models: try fewer runs, or use --device cpu"
            raise RunFailed(text, "chat.out_of_memory") from error

    def memory(self) -> MemoryUse:
        """What is loaded, and the memory of this process."""
        gpu = torch.cuda.memory_reserved() if self.machine.device == "cuda" else None
        return MemoryUse(parts=[copy.part for copy in self.copies], process=psutil.Process().memory_info().rss, gpu=gpu)

    def _load(self, with_base: bool) -> None:
        groups: dict[tuple[Any, ...], list[ChatRun]] = {}
        for run in sorted(self.runs, key=lambda run: run.spec.quantizes_base):
            if not run.spec.trains_weights:
                groups.setdefault(run.base_identity, []).append(run)
        for group in groups.values():
            # Load a base and all adapters on it. If a base is loaded several times, the first copy answers as the base.
            copy, prompt, before = self._load_base(group[0], with_base)
            names = {}
            for run in group:
                self.progress(f"loading the adapter of {run.key}")
                names[run.key] = self._titles[run.directory]
                copy.attach(run.key, run.directory.model)
                self._respond(run, copy, run.key)
            self.notices += verify(copy, before, prompt, self.machine.device, names)

        for run in self.runs:
            if not run.spec.trains_weights:
                continue
            if with_base and run.weights not in self._base_logits:  # a base that no adapter needs
                self._load_base(run, with_base)
            title = self._titles[run.directory]
            self.progress(f"loading {run.key}")
            dtype = method(run.spec.name).weight_dtype(run.config, self.machine)
            copy = BaseCopy(title, load_pretrained(Model(id=str(run.directory.model)), self.machine, dtype))
            self.copies.append(copy)
            self._respond(run, copy, None)
            if (base := self._base_logits.get(run.weights)) is not None:
                tuned = logits_of(copy.network, self._text(run, copy).encoder.ids(PROBE), self.machine.device)
                if tuned.shape == base.shape and largest_difference(tuned, base) <= TOLERANCE:
                    text = f"{title} answers as the base model: its logits are equal"
                    self.notices.append(Notice("chat.full_is_base", text))

        order = {run.key: number for number, run in enumerate(self.runs)}
        by_order = sorted(self.responders.items(), key=lambda pair: order.get(pair[0], -1))
        self.responders = dict(by_order)
        self._base_logits.clear()  # only needed while models are loaded

    def _load_base(self, run: ChatRun, with_base: bool) -> tuple[BaseCopy, list[int], torch.Tensor]:
        """The base of a run, the prompt of the verification, and its logits (T, V)."""
        name = BASE_4BIT if run.spec.quantizes_base else BASE
        if len({other.weights for other in self.runs}) > 1:
            name += f" {Path(run.config.model.id).name}"
        self.progress(f"loading the {name}")
        copy = BaseCopy(name, method(run.spec.name).load(run.config, self.machine))
        self.copies.append(copy)
        prompt = self._text(run, copy).encoder.ids(PROBE)
        before = logits_of(copy.network, prompt, self.machine.device)
        if with_base and run.weights not in self._base_logits:
            # Two folders with different models can have the same name.
            keys = (name if number == 1 else f"{name} {number}" for number in count(1))
            key = next(key for key in keys if key not in self.responders)
            self.loaded_for[key] = run.directory.name
            self._respond(run, copy, None, base=key)
        self._base_logits.setdefault(run.weights, before)
        return copy, prompt, before

    def _respond(self, run: ChatRun, copy: BaseCopy, adapter: str | None, base: str = "") -> None:
        """Add the column of a run, or with `base` the column of its base with this key."""
        text = self._text(run, copy)
        column = ChatColumn(
            key=base or run.key,
            title=base or self._titles[run.directory],
            model=run.config.model.id,
            run="" if base else run.directory.name,
            chat=text.encoder.chat,
            system=text.system,
            max_new_tokens=run.config.evaluation.max_new_tokens,
        )
        positions = maximum_positions(config_of(run.config.model))
        self.responders[column.key] = Responder(
            column, copy, adapter, text.tokenizer, text.encoder, text.ends, positions
        )

    def _text(self, run: ChatRun, copy: BaseCopy) -> PromptSettings:
        """Tokenizer, end tokens and system prompt, read once per run."""
        if run.directory.name in self._texts:
            return self._texts[run.directory.name]
        tokenizer = load_tokenizer(run.config.model)
        encoder = PromptEncoder(tokenizer)
        examples: list[Example] = []
        try:
            examples = training_examples(run.config.data)
        except (UserError, OSError) as error:
            reason = error.line if isinstance(error, UserError) else str(error)
            text = f"the training data of {run.key} cannot be read: its system prompt is unknown"
            self.notices.append(Notice("chat.no_data", f"{text} ({reason})"))
        rows = [row for row in encoder.rows(examples) if isinstance(row, Row)] or [encoder.row(PROBE)]
        ends = end_tokens(tokenizer, getattr(copy.network, "get_base_model", lambda: copy.network)(), rows)
        settings = PromptSettings(tokenizer, encoder, ends, system_prompt(examples))
        self._texts[run.directory.name] = settings
        return settings
