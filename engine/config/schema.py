"""What a preset may say: every key, its type, its range and its default.

Defaults that differ between the methods are in `defaults`; a value here is the one all methods share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, Struct, field

from engine.config.data_formats import format_names

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(gt=0, le=1)]
DATA_FORMATS = ("auto", *format_names())
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[DATA_FORMATS]


class Section(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table of a preset: unknown keys are errors."""


class Model(Section, frozen=True):
    """Which model, and how it is loaded."""

    id: str = "tiny"
    """Embedded or catalogue name, folder, .gguf file, or Hub id."""
    revision: str | None = None
    """Hub revision (branch, tag or commit)."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = "auto"
    """Attention implementation; auto takes flash_attention_2 where it is installed and there is a card, else sdpa."""
    chat_template: str | None = None
    """Used instead of the tokenizer's chat template: tools-chatml or tools-plain (shipped; both render tools and tool
    calls), a catalogue name (that model's template), or a Jinja file."""


class Data(Section, frozen=True):
    """Which rows, what they mean, and how they are split."""

    id: str = "tickets"
    """Embedded name, .jsonl .json .csv .tsv .txt .parquet file, folder of them or of save_to_disk, or Hub id."""
    subset: str | None = None
    """The configuration of a Hub data set that has several."""
    format: FormatName = "auto"
    """auto, messages, sharegpt, prompt-completion, alpaca, squad, text; for preference data chosen (train on the chosen
    answers), for KTO data desirable (train on the rows whose label is true)."""
    map: dict[str, str] = field(default_factory=dict)
    """prompt, completion, system, tools, references, text or messages -> a column, or a template: "Q: {question}"."""
    separator: str | None = None
    """For plain text: the loss falls on what follows the last occurrence of this string."""
    validation: Share | str = 0.05
    """Share of the training rows held out by prompt, or a file or split name."""
    test: Share | str | None = None
    """File, split name, or share held out by prompt; unset: the data's own test split, else a tenth."""
    seed: int = 0
    """Of the hash that splits, and of max_rows' choice."""
    max_rows: Positive | None = None
    """Train on at most this many rows, chosen by content hash."""


class Train(Section, frozen=True):
    """The optimisation: how long, how fast, in what portions."""

    epochs: Annotated[float, Meta(gt=0, le=1000)] = 3.0
    steps: Positive | None = None
    """Optimizer steps; instead of epochs."""
    batch: Annotated[int, Meta(ge=1, le=65536)] = 16
    """Effective batch: rows per optimizer step."""
    micro_batch: Positive | Literal["auto"] = "auto"
    """Rows per forward pass; auto begins large and halves on out-of-memory, the effective batch unchanged."""
    learning_rate: Rate = 2e-4
    """Peak. In a preset also a table by method: { qlora = 2e-4, lora = 2e-4, full = 2e-5 }."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: Share = 0.05
    """Share of the steps over which the learning rate rises."""
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
    max_grad_norm: Annotated[float, Meta(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    max_length: Annotated[int, Meta(ge=8, le=1_000_000)] = 1024
    """Tokens a row may have; longer rows are cut on the right, and counted."""
    packing: Literal["auto", "flat", "padded"] = "auto"
    """flat: rows end to end without padding. padded: left-padded, sorted by length. auto: by length."""
    precision: Literal["auto", "bf16", "mixed", "fp32"] = "auto"
    """bf16: weights and arithmetic. mixed: fp32 weights, bf16 arithmetic. auto: see the method."""
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    """Recompute activations in the backward pass; auto: on a card yes, on the CPU no."""
    evaluate_every: NotNegative = 0
    """Steps between held-out losses on the validation rows; 0: four times a run."""
    checkpoint_every: NotNegative = 0
    """Steps between checkpoints; 0: once every tenth of the run, at most one in 30 seconds."""
    keep_checkpoints: Annotated[int, Meta(ge=1, le=1000)] = 2
    probe: bool = True
    """Try the longest batch, and on a card the evaluation, before the first step; costs about two steps."""
    seed: NotNegative = 0


class Adapter(Section, frozen=True):
    """The low-rank update (Hu et al. 2021, arXiv:2106.09685). Read by qlora and lora."""

    rank: Annotated[int, Meta(ge=1, le=4096)] = 16
    alpha: Annotated[float, Meta(gt=0)] = 32.0
    dropout: Share = 0.0
    targets: str | list[str] = "all-linear"
    """Names of linear layers, or all-linear (the QLoRA paper's choice: every one but the head)."""
    rslora: bool = False
    """Scale by alpha/sqrt(rank) instead of alpha/rank (arXiv:2312.03732)."""
    dora: bool = False
    """Train magnitude and direction apart (arXiv:2402.09353)."""


class Quantization(Section, frozen=True):
    """How the frozen base is stored. Read by qlora."""

    type: Literal["nf4", "fp4"] = "nf4"
    double: bool = True
    """Quantize the scales too: 4.127 instead of 4.5 bits a parameter."""
    compute_dtype: Literal["auto", "bf16", "fp32"] = "auto"


class Optimizer(Section, frozen=True):
    """AdamW (arXiv:1711.05101), in the memory it may take."""

    name: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    beta1: Share = 0.9
    beta2: Share = 0.999
    eps: Annotated[float, Meta(gt=0)] = 1e-8


class Evaluation(Section, frozen=True):
    """How base and tuned model are scored on the test rows."""

    metric: str = "exact_match"
    """exact_match, number, json, choice, contains, rouge, loss, or the metric of an installed package."""
    max_new_tokens: Annotated[int, Meta(ge=1, le=32768)] = 128
    rows: Positive | None = None
    """Score at most this many test items (prompts), chosen by content hash; unset: all."""
    batch: Positive = 32
    """Rows generated at a time; halved on out-of-memory."""
    when: Literal["both", "after", "never"] = "both"
    """Score the test rows before and after training, after it only, or not at all."""
    general: str = "auto"
    """Text on which forgetting is measured: auto (an embedded one), none, or a file; blank lines part passages."""


class Cost(Section, frozen=True):
    """What the hour costs you."""

    price_per_hour: Annotated[float, Meta(ge=0)] | None = None
    currency: str = "USD"


class Config(Section, frozen=True):
    """A whole effective configuration: what `run.toml` holds and the worker obeys."""

    title: str = ""
    about: str = ""
    slot: Annotated[int, Meta(ge=1, le=9)] | None = None
    """The key that selects the preset in the workbench."""
    method: str = "lora"
    """A name in `method_specs`: qlora, lora, full, or another that an installed package adds."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    adapter: Adapter = field(default_factory=Adapter)
    quantization: Quantization = field(default_factory=Quantization)
    optimizer: Optimizer = field(default_factory=Optimizer)
    evaluation: Evaluation = field(default_factory=Evaluation)
    cost: Cost = field(default_factory=Cost)


SECTIONS: dict[str, type[Section]] = {
    "model": Model,
    "data": Data,
    "train": Train,
    "adapter": Adapter,
    "quantization": Quantization,
    "optimizer": Optimizer,
    "evaluation": Evaluation,
    "cost": Cost,
}
TOP_KEYS = ("title", "about", "slot", "method")
