"""The schema of presets: every key with its type, range, default, meaning and traits (`engine/config/section.py`).

Defaults that differ between methods are in `method_specs`. What treats settings alike asks for those with a trait.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, TypeVar, get_type_hints

from msgspec import Meta, defstruct, field

from engine.config.hooks import shipped_hooks
from engine.config.section import NotNegative, Positive, Rate, Section, Share, Trait, Traits, traits_of

S = TypeVar("S", bound=Section)

_GPU_NAME = r"([0-9]{1,4}(\.[0-9]{1,2})?|(GPU|MIG)-[0-9A-Za-z/-]+)"
DEVICE_PATTERN = rf"^(auto|all|cpu|{_GPU_NAME}(,{_GPU_NAME})*)(:[1-9][0-9]?)?$"
DeviceName = Annotated[str, Meta(pattern=DEVICE_PATTERN)]
DEVICE_FORMS = (
    "auto, cpu, all, a GPU's index or UUID, a MIG instance (1.0), several of them (0,1), or one of these with slots "
    "(cpu:2)"
)
"""What DEVICE_PATTERN allows, in words."""
_FORMAT_MODULES = (path.stem for path in (Path(__file__).parents[1] / "data" / "formats").glob("[!_]*.py"))
DATA_FORMATS = ("auto", *sorted(module.replace("_", "-") for module in _FORMAT_MODULES))
"""`prompt-completion` for the module `prompt_completion.py`, and so on."""
if TYPE_CHECKING:
    FormatName = str  # mypy cannot evaluate the names of the modules
else:
    FormatName = Literal[DATA_FORMATS]


class Model(Section, frozen=True):
    """Which model, and how it is loaded."""

    id: Annotated[str, Traits("path", "relocatable", "weights", "shared")] = "tiny"
    """Embedded or catalog name, folder, .gguf file, or Hub id."""
    revision: Annotated[str | None, Traits("weights", "of_model", "shared")] = None
    """Hub revision (branch, tag or commit)."""
    from_run: Annotated[str | None, Traits("path", "of_model")] = None
    """Directory of a finished run to start from, with the same method and base model; set by `ftbench run --from`.
    QLoRA and LoRA start with its adapter, full with its weights; scores before training are that run's."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2", "flex_attention"] = "auto"
    """Attention implementation; auto: flash_attention_2 on a GPU where it is installed, else sdpa."""
    chat_template: Annotated[str | None, Traits("path", "weights", "shared")] = None
    """Replaces the tokenizer's chat template: tools-chatml or tools-plain (shipped; both render tools and tool calls),
    a catalog name (that model's template), or a Jinja file."""
    enable_thinking: Annotated[bool, Traits("weights", "shared", "unrelated")] = False
    """For chat templates with enable_thinking, such as Qwen3's: whether the model may reason before it answers; true if
    the training answers have reasoning. The saved tokenizer has the same default."""


class Data(Section, frozen=True):
    """The rows, how they are read as conversations, and how they are split."""

    traits: ClassVar[Traits] = Traits("shared")

    id: Annotated[str, Traits("path", "relocatable")] = "tickets"
    """Embedded name; .jsonl, .json, .csv, .tsv, .txt or .parquet file; folder of these or of save_to_disk; Hub id."""
    subset: str | None = None
    """Configuration (subset) of a Hub dataset that has several."""
    format: FormatName = "auto"
    """How rows are converted to conversations; auto: detected from the columns. chosen: preference data, train on the
    chosen answers. desirable: KTO data, train on the rows whose label is true."""
    map: dict[str, str] = field(default_factory=dict)
    """Role (prompt, completion, system, tools, references, text, messages) -> column or template: "Q: {question}"."""
    separator: str | None = None
    """For plain text: only what follows the last occurrence of this string is in the loss."""
    long: Literal["truncate", "leave_out", "split"] = "truncate"
    """Rows longer than train.max_length: truncate them on the right, leave them out, or split plain text into blocks of
    that length, which stay in one split."""
    group: str | None = None
    """Column with what rows have in common, such as a document, user or thread: rows with the same value stay in one
    split, together with rows of the same prompt, and are one unit of the statistics. A row without a value is alone."""
    validation: Annotated[Share | str, Traits("path", "relocatable")] = 0.05
    """Share of the training rows to hold out by prompt, or a file or split name."""
    test: Annotated[Share | str | None, Traits("path", "relocatable")] = None
    """File, split name, or share to hold out by prompt; unset: the data's own test split, else 10%."""
    seed: int = 0
    """Seed of the split and of the rows that max_rows selects."""
    max_rows: Positive | None = None
    """Maximum number of training rows, selected by content hash."""


class Train(Section, frozen=True):
    """Length of training, batch sizes, learning rate schedule, precision, checkpoints."""

    epochs: Annotated[float, Meta(gt=0, le=1000), Traits("shared")] = 3.0
    """Passes over the training rows."""
    steps: Annotated[Positive | None, Traits("shared")] = None
    """Optimizer steps, instead of epochs."""
    batch: Annotated[int, Meta(ge=1, le=65536), Traits("shared")] = 16
    """Effective batch size: rows per optimizer step."""
    micro_batch: Positive | Literal["auto"] = "auto"
    """Micro-batch size: rows per forward pass, fewer where long rows exceed the limit on its tokens; auto: as large as
    memory allows, halved on out-of-memory errors. Gradient accumulation keeps the effective batch size."""
    learning_rate: Rate = 2e-4
    """Peak learning rate. In a preset also a table by method: { qlora = 2e-4, lora = 2e-4, full = 2e-5 }."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate schedule after the warmup."""
    warmup_ratio: Share = 0.05
    """Share of the steps over which the learning rate rises linearly."""
    weight_decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Decoupled weight decay of AdamW; vectors (norms, biases) have none."""
    max_grad_norm: Annotated[float, Meta(ge=0)] = 1.0
    """Gradient clipping norm; 0 disables clipping."""
    max_length: Annotated[int, Meta(ge=8, le=1_000_000), Traits("shared")] = 1024
    """Maximum tokens per row; longer rows are truncated on the right, and counted (see data.long)."""
    packing: Literal["auto", "packed", "shared_prefix", "padded"] = "auto"
    """packed: the rows of a micro-batch end to end without padding, like TRL's padding_free. Sequences are not filled
    to max_length, and the number of steps stays the same. shared_prefix: packed, and a prefix that rows of a
    micro-batch have in common is computed once, with the same loss. padded: left-padded, sorted by length. auto:
    shared_prefix if that saves about 5% of the tokens or more (not with adapter.dropout), else packed; padded if the
    architecture does not separate packed rows, or needs a mask for it and rows are long."""
    precision: Literal["auto", "bf16", "mixed", "fp32"] = "auto"
    """bf16: bf16 weights and arithmetic. mixed: trained weights in fp32, bf16 arithmetic. fp32: all in fp32. auto: by
    method and device. Adapters are fp32 and multiply in the data type of the base."""
    gradient_checkpointing: bool | Annotated[int, Meta(ge=1, le=1000)] | Literal["auto", "offload"] = "auto"
    """Recompute the activations of every layer (true), of every n-th layer (n) or of none (false) in the backward pass;
    offload: of every layer, whose inputs are kept in host memory; auto: false on a CPU, on a GPU the fastest that fits.
    """
    compile: bool = False
    """Compile the decoder layers with torch.compile for the training steps. It takes up to minutes before the first
    step, changes rounding, and is not part of the predicted memory; the probe measures it. Evaluation is not compiled.
    """
    deterministic: bool = False
    """On a GPU: use torch's deterministic algorithms and fixed cuBLAS workspaces, so that the same run with the same
    GPU model and versions gives the same numbers. Slower (by how much was not measured), with 24 MiB more for each
    cuBLAS handle and more for attention. Not covered: other micro-batch sizes, and several devices. On a CPU the same
    number of threads gives the same numbers anyway."""
    evaluate_every: NotNegative = 0
    """Steps between validation losses, each on at most 128 rows; 0: four times per run."""
    select: Annotated[Literal["last", "best"], Traits("shared")] = "last"
    """Weights that are kept, scored and saved: of the last step, or with the lowest validation loss. best: also
    validates after the last step, and keeps one checkpoint more."""
    patience: Annotated[Positive | None, Traits("shared")] = None
    """Early stopping: number of consecutive validations without a new lowest loss after which training ends; unset:
    never."""
    checkpoint_every: NotNegative = 0
    """Steps between checkpoints; 0: every 10% of the run, but at most one per 30 s."""
    keep_checkpoints: Annotated[int, Meta(ge=1, le=1000)] = 2
    """Number of checkpoints to keep; older ones are deleted."""
    async_checkpoints: bool | Literal["auto"] = "auto"
    """Copy weights and optimizer state to host memory, and write the copy while training continues; without enough
    memory training waits. auto: for full fine-tuning on a GPU; on a CPU the copy would add to the memory of training.
    """
    devices: Annotated[int, Meta(ge=1, le=64), Traits("device")] = 1
    """Number of GPUs that train this run together, each with a part of the rows of a step; they are the first free ones
    of hardware.device. For tests also slots of the CPU: hardware.device = "cpu:2"."""
    parallelism: Annotated[Literal["auto", "ddp", "fsdp"], Traits("device")] = "auto"
    """With several devices. ddp: each has the whole model. fsdp: the weights of every layer are sharded among them, and
    gathered when the layer is computed. auto: ddp if the plan says that it fits, else fsdp."""
    probe: bool = True
    """Try the two largest micro-batches, and on a GPU the evaluation, before the first step; takes about as long as two
    steps."""
    seed: NotNegative = 0
    """Seed of adapter initialization, row order and dropout."""


class Adapter(Section, frozen=True):
    """Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685)."""

    rank: Annotated[int, Meta(ge=1, le=4096), Traits("weights")] = 16
    """Rank of the update matrices."""
    alpha: Annotated[float, Meta(gt=0), Traits("weights")] = 32.0
    """The update is scaled by alpha/rank."""
    dropout: Share = 0.0
    """Dropout on the adapters' inputs."""
    target_modules: Annotated[str | list[str], Traits("weights")] = "all-linear"
    """Names of linear layers and experts' tensors, or all-linear: every linear layer and all experts, except the head
    and routers."""
    rslora: Annotated[bool, Traits("weights")] = False
    """Scale by alpha/sqrt(rank) instead of alpha/rank (arXiv:2312.03732)."""
    dora: Annotated[bool, Traits("weights")] = False
    """Train magnitude and direction separately (arXiv:2402.09353)."""
    init: Literal["default", "pissa"] = "default"
    """Initial weights: default (A random, B zero), or pissa: the principal singular components of the weight; the
    residual is frozen (arXiv:2404.02948). Its artifact is an adapter of twice the rank. Not with a 4-bit base."""
    lora_plus_ratio: Annotated[float, Meta(ge=1)] = 1.0
    """Ratio of the learning rate of B to that of A (LoRA+, arXiv:2402.12354); train.learning_rate is A's."""


class Quantization(Section, frozen=True):
    """How the frozen base model is quantized (bitsandbytes)."""

    type: Annotated[Literal["nf4", "fp4"], Traits("weights")] = "nf4"
    """4-bit data type."""
    double: Annotated[bool, Traits("weights")] = True
    """Double quantization: quantize the scales too, 4.127 instead of 4.5 bits per parameter."""
    compute_dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Data type of the arithmetic on dequantized weights."""


class Optimizer(Section, frozen=True):
    """AdamW (arXiv:1711.05101) and its 8-bit and paged versions."""

    name: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit", "offloaded_adamw_8bit"] = "adamw"
    """8-bit optimizer state takes a quarter of the memory; paged state moves to the CPU when GPU memory runs out;
    offloaded state is in host memory, and copied to the GPU for each update and back. auto: on a GPU 8-bit, paged
    unless the plan says that the run fits with headroom, offloaded where full fine-tuning does not fit otherwise; on a
    CPU adamw, which is much faster there."""
    rounding: Literal["auto", "remainder", "stochastic"] = "auto"
    """How full fine-tuning with bf16 weights keeps updates that rounding would lose. remainder: stores the rounding
    error of each weight, 2 bytes per parameter. stochastic: rounds up or down at random, without additional memory.
    auto: stochastic on a GPU where the run does not fit otherwise."""
    step_in_backward: bool | Literal["auto"] = "auto"
    """Full fine-tuning updates each weight as soon as its gradient is complete, and frees the gradient: no memory for
    the gradients of all weights. Then a step is one micro-batch, train.max_grad_norm clips each tensor on its own, and
    a step that ran out of memory cannot be repeated. Only on one device. auto: on a GPU where the run does not fit
    otherwise, with activation checkpointing of all layers; a warning says so."""
    beta1: Share = 0.9
    """Decay rate of the running average of the gradient."""
    beta2: Share = 0.999
    """Decay rate of the running average of the squared gradient."""
    eps: Annotated[float, Meta(gt=0)] = 1e-8
    """Added to the denominator for numerical stability."""


class Evaluation(Section, frozen=True):
    """How the base and the tuned model are scored on the test rows."""

    metric: Annotated[str, Traits("shared")] = "auto"
    """auto: decided from the training answers, which data check, launch screen, log and report state with the reason;
    exact_match, number, number_comma, boxed, json, set, choice, contains, rouge, tool_calls, open (the held-out loss,
    with chrF and ROUGE-L of the answers), loss (without answers), or the metric of an installed package."""
    reasoning_tags: Annotated[list[str], Meta(min_length=2, max_length=2), Traits("shared")] = field(
        default_factory=lambda: ["<think>", "</think>"]
    )
    """What the model writes before and after its reasoning, which is not scored; an answer whose reasoning does not end
    is wrong."""
    max_new_tokens: Annotated[int, Meta(ge=1, le=32768), Traits("shared")] = 128
    """Maximum tokens to generate per answer."""
    generated_only: Annotated[bool, Traits("shared")] = False
    """Score what the model generates, never likelihoods: the automatic metric is exact_match instead of choice. Set by
    a ladder with rungs that are not trained."""
    rows: Annotated[Positive | None, Traits("shared")] = None
    """Maximum number of test items (prompts) to score, selected by content hash; unset: all."""
    batch: Positive | Literal["auto"] = "auto"
    """Rows generated at a time; halved on out-of-memory errors. auto: on a CPU 32; on a GPU, where a step takes about
    the same time for more rows, as many as are predicted to fit, at most 256."""
    when: Annotated[Literal["both", "after", "never"], Traits("by_ladder")] = "both"
    """Score the test rows before and after training, only after it, or never."""
    base_shots: Annotated[list[Positive], Traits("by_ladder")] = field(default_factory=list)
    """Numbers of training rows in each prompt with which the base model is scored too; set by `ftbench ladder
    --base-shots`."""
    forgetting_text: Annotated[str, Traits("path", "shared")] = "auto"
    """General text on which forgetting is measured: auto (an embedded one), none, or a file with a blank line between
    passages."""


class Hardware(Section, frozen=True):
    """Device that a run uses."""

    traits: ClassVar[Traits] = Traits("private")

    device: Annotated[NotNegative | DeviceName, Traits("device", "unrelated")] = "auto"
    """auto, cpu, the index of a GPU in nvidia-smi, 1.0 for the first MIG instance of GPU 1, or the UUID of a GPU or MIG
    instance, or a prefix of it. auto: the GPU with the most free memory, of equal ones one without
    processes, else the CPU. Of several devices a run uses the first free one, and a ladder uses all of them at the same
    time: 0,1 (GPUs separated by commas) or all (GPUs). A number of slots divides each device for runs at the same time:
    cpu:2 (half of the CPUs each), 0:2 (half of the memory each)."""


class Cost(Section, frozen=True):
    """What an hour of the machine costs."""

    traits: ClassVar[Traits] = Traits("unrelated", "private")

    price_per_hour: Annotated[float, Meta(ge=0)] | None = None
    """Unset: the price of the GPU in the price list."""
    currency: str = "USD"
    """Currency of price_per_hour."""
    max_other_load: Annotated[float, Meta(ge=0, le=1)] = 0.1
    """Share of CPU time that other processes may use on the CPUs of a run before its timing counts as disturbed and is
    left out of a ladder's costs; 1: use all timings."""


class Executor(Section, frozen=True):
    """Where the worker runs; results do not depend on it."""

    traits: ClassVar[Traits] = Traits("unrelated", "private")

    name: str = "local"
    """local: a process on this machine; else the name of a batch system, to which the other keys belong: slurm."""
    partition: str | None = None
    """Partition; unset: the cluster's default."""
    time: str | None = None
    """Time limit of a job, such as 90 (minutes), 12:00:00 or 2-00:00:00. Before it is reached, the run saves a
    checkpoint and is queued again."""
    notice: Annotated[int, Meta(ge=10, le=3600)] = 120
    """Seconds before the time limit at which the run is asked to save a checkpoint."""
    max_jobs: Positive = 8
    """Maximum number of a ladder's runs at a time."""
    gres: str | None = None
    """Generic resources, such as gpu:1 or gpu:a100:1."""
    cpus: Positive | None = None
    """CPU cores."""
    memory: str | None = None
    """RAM, such as 64G."""
    account: str | None = None
    """Account to charge."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features that the node must have."""


class CoreConfig(Section, frozen=True):
    """An effective configuration, as `run.toml` stores it; `Config` has the sections of extensions too."""

    title: Annotated[str, Traits("descriptive", "own")] = ""
    """Shown instead of the preset's name."""
    about: Annotated[str, Traits("descriptive")] = ""
    """One line on what the preset is for."""
    slot: Annotated[Annotated[int, Meta(ge=1, le=9)] | None, Traits("descriptive", "own", "private")] = None
    """The key that selects the preset in the bench."""
    method: Annotated[str, Traits("by_ladder")] = "lora"
    """Fine-tuning method: qlora, lora, full, or the method of an installed package."""
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    adapter: Adapter = field(default_factory=Adapter)
    quantization: Quantization = field(default_factory=Quantization)
    optimizer: Optimizer = field(default_factory=Optimizer)
    evaluation: Evaluation = field(default_factory=Evaluation)
    hardware: Hardware = field(default_factory=Hardware)
    cost: Cost = field(default_factory=Cost)
    executor: Executor = field(default_factory=Executor)


SECTIONS: dict[str, type[Section]] = {
    name: kind
    for name, kind in get_type_hints(CoreConfig).items()
    if isinstance(kind, type) and issubclass(kind, Section)
}
for _hook in shipped_hooks("ftbench.settings").values():
    _loaded = _hook.load()
    SECTIONS[_hook.name] = _loaded(SECTIONS[_hook.name]) if _hook.name in SECTIONS else _loaded
"""The tables of a preset, with those of extensions, by name."""
if TYPE_CHECKING:
    Config = CoreConfig
else:
    _ADDED = {name: kind for name, kind in SECTIONS.items() if get_type_hints(CoreConfig).get(name) is not kind}
    Config = defstruct(
        "Config",
        [(name, kind, field(default_factory=kind)) for name, kind in _ADDED.items()],
        bases=(CoreConfig,),
        module=__name__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
TOP_KEYS = tuple(name for name in CoreConfig.__struct_fields__ if name not in SECTIONS)


def section_of(config: Config, kind: type[S]) -> S:
    """The section of this type, of an extension: type checkers know only those of the core."""
    section: S = getattr(config, next(name for name, known in SECTIONS.items() if known is kind))
    return section


def user_sections() -> dict[str, type[Section]]:
    """The sections of which config.toml may have a table of defaults."""
    return {name: kind for name, kind in SECTIONS.items() if "user_default" in kind.traits.names}


def keys_with(trait: Trait) -> tuple[str, ...]:
    """The settings with a trait, in the order of the schema."""
    kinds: dict[str, type[Section]] = {"": CoreConfig, **{f"{section}.": kind for section, kind in SECTIONS.items()}}
    return tuple(
        f"{start}{name}" for start, kind in kinds.items() for name, traits in traits_of(kind) if trait in traits
    )


DESCRIPTIVE_KEYS = keys_with("descriptive")
NOT_COPIED = keys_with("own")
PATH_KEYS = keys_with("path")
RELOCATABLE_KEYS = keys_with("relocatable")
DEVICE_KEYS = keys_with("device")
SAME_AS_STARTING_RUN = keys_with("weights")
OF_ONE_MODEL = keys_with("of_model")
SHARED_KEYS = keys_with("shared")
LADDER_KEYS = keys_with("by_ladder")
NOT_VARIED = (*LADDER_KEYS, "train.seed", *DESCRIPTIVE_KEYS)
"""Refused in `--vary`."""
UNRELATED_KEYS = (*DESCRIPTIVE_KEYS, *keys_with("unrelated"))
PRIVATE_KEYS = keys_with("private")
UNPROBED_KEYS = keys_with("unprobed")
OPTIONAL_KEYS = keys_with("optional")
