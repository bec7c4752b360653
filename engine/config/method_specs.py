"""Fine-tuning methods: one object per method with everything about it that does not need torch.

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
from typing import Any, Literal

from engine.config.errors import UserError

ENTRY_POINTS = "ftbench.methods"
OPTIONAL_SECTIONS = ("adapter", "quantization")
"""Preset sections that a method reads as far as its spec says; every method reads the others."""
RULE_REFERENCE, RULE_CANDIDATE = "full", "qlora"
"""Methods of the rule of thumb: the share of the reference's quality and of its cost that the candidate has."""


@dataclass(frozen=True, kw_only=True)
class MethodSpec:
    """A fine-tuning method, as presets, plans, the workbench, ladders and reports use it."""

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
    """All weights of the model, or low-rank adapters on a frozen base."""
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
"""The settings of the section `adapter` that LoRA reads. A key that is added for another adapter is not among them."""
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

    Raises UserError for an entry point that is not a MethodSpec or takes a name that exists.
    """
    from importlib.metadata import entry_points  # slow to import: not before the first frame

    specs = {spec.name: spec for spec in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINTS):
        spec = entry.load()
        if not isinstance(spec, MethodSpec) or spec.name in specs:
            problem = f"invalid entry point {entry.name!r} (not a MethodSpec, or its name is taken)"
            raise UserError(problem, entry.value, "fix or uninstall the package", code="method.invalid_entry_point")
        specs[spec.name] = spec
    return specs


def method_names() -> tuple[str, ...]:
    return tuple(method_specs())


def uses_autocast(method: str, precision: str) -> bool:
    """Whether a run trains float32 weights under bf16 autocast. Adapters multiply in the data type of their base."""
    return precision == "mixed" and method_spec(method).trains_weights


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


def smaller_methods(name: str) -> str:
    """The titles of the methods that need less memory: `LoRA or QLoRA`; `a smaller model` where none does."""
    titles: list[str] = []
    while name := method_spec(name).needs_less:
        titles.append(method_title(name))
    return " or ".join(titles) or "a smaller model"


def next_method(name: str) -> str:
    """The method after this one in the list; the first after the last."""
    names = method_names()
    return names[(names.index(name) + 1) % len(names)]
