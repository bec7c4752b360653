"""Fine-tuning methods: one object per method with everything about it that does not need torch; variants of LoRA.

The code that loads and trains is the module named by `MethodSpec.module`. A package installed next to ftbench adds a
method with an entry point in the group `ftbench.methods` that points to a `MethodSpec`.

The learning rates differ by method because comparing methods at one shared rate is unfair: a low-rank update needs
about ten times the rate of a full one ("LoRA Without Regret", Thinking Machines 2025, and tinker-cookbook's
`get_lora_lr_over_full_finetune_lr`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, NamedTuple

from engine.config.errors import Notice, UserError
from engine.config.hooks import FIX, load_all
from engine.config.quantities import count, rate
from engine.config.schema import Config

OPTIONAL_SECTIONS = ("adapter", "quantization")
"""Preset sections that a method reads as far as its spec says; every method reads the others."""
RULE_REFERENCE, RULE_CANDIDATE = "full", "qlora"
"""Methods of the rule of thumb: the share of the reference's quality and of its cost that the candidate has."""


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A fine-tuning method, as presets, plans, the bench, ladders and reports use it."""

    name: str
    """In presets and run directories: lowercase letters, digits, - and _."""
    title: str
    """In headings: QLoRA, LoRA, Full."""
    in_text: str
    """In sentences: QLoRA, LoRA, full."""
    trains_summary: str
    """What it trains, in a few words."""
    use_summary: str
    """When to use it, in a few words."""
    description: str
    """What it trains and when to use it, in two or three sentences."""
    module: str
    """Module with `load(config, machine)`, `make_trainable(model, config)` and `weight_dtype(config, machine)`."""
    trains: Literal["weights", "adapters"]
    """All weights of the model, or adapters on a frozen base."""
    quantizes_base: bool = False
    """Whether the frozen base is stored in 4 bits."""
    is_lora: bool = False
    """Whether the adapters are LoRA's: advice about LoRA applies to them, and vLLM serves them."""
    bf16_on_cpu: bool = True
    """Whether `train.precision = "auto"` keeps weights in bf16 on a CPU with bf16 instructions; on a GPU all do."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Defaults of this method, by dotted key."""
    reads: tuple[str, ...] = ()
    """What it reads of OPTIONAL_SECTIONS: whole sections, or single keys such as `adapter.rank`."""
    needs_less: str = ""
    """The method to try when memory is insufficient; '' for none."""

    @property
    def trains_weights(self) -> bool:
        return self.trains == "weights"


LORA_KEYS = tuple(
    f"adapter.{name}"
    for name in ("rank", "alpha", "dropout", "target_modules", "rslora", "dora", "init", "lora_plus_ratio")
)
"""The settings of the section `adapter` that LoRA reads."""
QLORA = MethodSpec(
    name="qlora",
    title="QLoRA",
    in_text="QLoRA",
    trains_summary="adapters, 4-bit base",
    use_summary="least memory, to prototype",
    description="The base model is frozen in 4-bit, so larger models fit. Steps take longer than LoRA's, because "
    "weights are dequantized as they are used. For prototypes, and where nothing else fits.",
    module="engine.methods.qlora",
    trains="adapters",
    quantizes_base=True,
    # Dettmers et al. 2023, arXiv:2305.14314, Table 9 and Appendix B; take 1e-4 above 13B parameters, as the paper does.
    # torch's AdamW: 8-bit state saves 0.25 GiB of an 8B model, but bitsandbytes waits for the GPU at every tensor.
    defaults={"train.learning_rate": 2e-4, "train.max_grad_norm": 0.3, "optimizer.name": "adamw"},
    is_lora=True,
    reads=(*LORA_KEYS, "quantization"),
)
LORA = MethodSpec(
    name="lora",
    title="LoRA",
    in_text="LoRA",
    trains_summary="adapters, bf16 base",
    use_summary="fast, small artifact",
    description="The base model is frozen in bf16 or float32; low-rank matrices on its linear layers are trained. "
    "Close to full fine-tuning on most tasks, fast, and the artifact is a few MiB. The usual choice to ship.",
    module="engine.methods.lora",
    trains="adapters",
    # PEFT's and Unsloth's defaults agree; rank and targets as in "LoRA Without Regret".
    defaults={"train.learning_rate": 2e-4, "train.max_grad_norm": 1.0, "optimizer.name": "adamw"},
    is_lora=True,
    reads=LORA_KEYS,
    needs_less="qlora",
)
FULL = MethodSpec(
    name="full",
    title="Full",
    in_text="full",
    trains_summary="all weights",
    use_summary="for the last % of quality",
    description="All weights are trained, with a gradient and optimizer state for each: several times the memory, and "
    "the artifact is a complete model. For tasks with much to learn, and when the last percentage point of quality "
    "matters.",
    module="engine.methods.full",
    trains="weights",
    bf16_on_cpu=False,
    # Llama 2 paper, section 3.1: 2e-5 with cosine decay, clipping at 1.0. 8-bit AdamW lets an 8B model fit on 80 GB.
    defaults={"train.learning_rate": 2e-5, "train.max_grad_norm": 1.0, "optimizer.name": "auto"},
    needs_less="lora",
)
BUILT_IN = (QLORA, LORA, FULL)


@cache
def method_specs() -> Mapping[str, MethodSpec]:
    """Every method by name: the built-in ones, then those of installed packages.

    Raises UserError for a hook that is not a MethodSpec or takes a name that exists.
    """
    specs = {spec.name: spec for spec in BUILT_IN}
    for hook, spec in load_all("ftbench.methods", "a MethodSpec", lambda loaded: isinstance(loaded, MethodSpec)):
        if spec.name in specs:
            raise UserError(f"two methods are named {spec.name!r}", hook.place, FIX, "extension.name_taken")
        specs[spec.name] = spec
    return specs


def method_names() -> tuple[str, ...]:
    return tuple(method_specs())


def uses_autocast(method: str, precision: str) -> bool:
    """Whether a run trains float32 weights under bf16 autocast. Adapters multiply in the data type of their base."""
    return precision == "mixed" and method_spec(method).trains_weights


def steps_in_backward(config: Config) -> bool:
    """Whether a run updates its weights during the backward pass. Gradients of adapters need little memory.

    `auto` means that it does not, until a plan decides it (`memory.formula.automatic`).
    """
    return config.optimizer.step_in_backward is True and method_spec(config.method).trains_weights


def method_spec(name: str) -> MethodSpec:
    """The method of this name. Raises UserError where no installed package has one."""
    spec = method_specs().get(name)
    if spec is None:
        hint = f"use one of {', '.join(method_names())}"
        raise UserError(f"unknown method {name!r}", "method", hint, code="method.unknown")
    return spec


def method_title(name: str) -> str:
    """The title of a method; its name where the package that defined it is no longer installed."""
    return method_specs()[name].title if name in method_specs() else name


def reads(method: str, key: str) -> bool:
    """Whether a method reads a dotted key."""
    section = key.split(".")[0]
    return section not in OPTIONAL_SECTIONS or not {section, key}.isdisjoint(method_spec(method).reads)


def readers(key: str) -> tuple[str, ...]:
    """The methods that read a dotted key."""
    return tuple(name for name in method_names() if reads(name, key))


def needing_less(name: str) -> list[str]:
    """The methods that need less memory, from the one that needs most."""
    names: list[str] = []
    while name := method_spec(name).needs_less:
        names.append(name)
    return names


def smaller_methods(name: str) -> str:
    """The titles of the methods that need less memory: `LoRA or QLoRA`; `a smaller model` where none does."""
    return " or ".join(map(method_title, needing_less(name))) or "a smaller model"


def next_method(name: str) -> str:
    """The method after this one in the list; the first after the last."""
    names = method_names()
    return names[(names.index(name) + 1) % len(names)]


LORA_VARIANTS: dict[str, dict[str, Any]] = {
    "rslora": {"adapter.rslora": True},
    "dora": {"adapter.dora": True},
    "pissa": {"adapter.init": "pissa"},
    "lora-plus": {"adapter.lora_plus_ratio": 16.0},
}
"""Name of the rung -> settings of LoRA. rsLoRA: arXiv:2312.03732; DoRA: arXiv:2402.09353; PiSSA: arXiv:2404.02948;
LoRA+: arXiv:2402.12354, whose authors recommend a ratio of 16."""
VARIANT_TITLES = {"rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", "lora-plus": "LoRA+"}
"""Name of the rung -> its name in text."""


# Settings in which adapters are known to fall behind full fine-tuning: "LoRA Without Regret" (Schulman and Thinking
# Machines Lab, 2025, https://thinkingmachines.ai/blog/lora).

LORA_SOURCE = "source: LoRA Without Regret, Thinking Machines Lab"
EXPECTED_RATIO = 10.0
"""Best learning rate of adapters divided by that of full fine-tuning, for all ranks."""
RATIO_BOUNDS = (EXPECTED_RATIO / 4, EXPECTED_RATIO * 4)
"""Ratios within these are not reported: the optimum is flat, and 15 is better under 100 steps."""
MAX_LORA_BATCH = 128
"""Batch size above which adapters lose more than full fine-tuning does."""
ATTENTION_MODULES = frozenset((
    *("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "query", "key", "value", "query_key_value"),
    *("c_attn", "Wqkv", "q", "k", "v", "o", "wq", "wk", "wv", "wo"),
))  # fmt: skip
"""Names of the linear layers of attention in transformers' models."""


class TrainedRung(NamedTuple):
    """What the warnings depend on."""

    method: str
    learning_rate: float | None
    batch: int
    target_modules: str | list[str]
    trainable: int | None = None
    """Trainable parameters; None if unknown."""
    answer_tokens: int | None = None
    """Tokens in the loss in one epoch; None if unknown."""

    @classmethod
    def of(cls, config: Config, trainable: int | None = None, answer_tokens: int | None = None) -> TrainedRung:
        train, modules = config.train, config.adapter.target_modules
        return cls(config.method, train.learning_rate, train.batch, modules, trainable, answer_tokens)


def lora_notices(rungs: Mapping[str, TrainedRung]) -> list[Notice]:
    """Warnings about these rungs by title, each once. Full fine-tuning is needed to compare learning rates."""
    notices: dict[Notice, None] = {}

    def warn(code: str, text: str) -> None:
        notices[Notice(code, f"{text} ({LORA_SOURCE})")] = None

    full = next((rung for rung in rungs.values() if method_spec(rung.method).trains_weights), None)
    for title, rung in rungs.items():
        if not method_spec(rung.method).is_lora:
            continue  # what is best for other adapters is not in the source
        if full and full.learning_rate and rung.learning_rate:
            low, high = RATIO_BOUNDS
            if not low <= rung.learning_rate / full.learning_rate <= high:
                rates = f"{title} trains at {rate(rung.learning_rate)}, full fine-tuning at {rate(full.learning_rate)}"
                best = f"the best learning rate for adapters is usually about {EXPECTED_RATIO:.0f} times full's"
                warn("lora.rate_ratio", f"{rates}: {best}")
        modules = [rung.target_modules] if isinstance(rung.target_modules, str) else rung.target_modules
        if modules and all(name.rpartition(".")[2] in ATTENTION_MODULES for name in modules):
            worse = f"{title} trains attention layers only, which is worse than all linear layers at equal size"
            warn("lora.attention_only", f"{worse}; --set adapter.target_modules=all-linear")
        if rung.trainable is not None and rung.answer_tokens and rung.trainable < rung.answer_tokens:
            sizes = f"{title} has {count(rung.trainable)} parameters for {count(rung.answer_tokens)} answer tokens"
            less = "adapters with fewer parameters than answer tokens can learn less than full fine-tuning"
            warn("lora.capacity", f"{sizes}: {less}; use a larger `--set adapter.rank=N`")
        if rung.batch > MAX_LORA_BATCH:
            more = f"batch size {rung.batch}: above {MAX_LORA_BATCH}, adapters lose more quality than full fine-tuning"
            warn("lora.large_batch", f"{more}; `--set train.batch={MAX_LORA_BATCH}`")
    return list(notices)
