"""Groups of settings that are treated alike, by dotted key. A new setting belongs to some of them: read this file.

Groups whose names end in SECTIONS contain prefixes of keys.
"""

from __future__ import annotations

DESCRIPTIVE_KEYS = ("title", "about", "slot")
"""Describe a preset and configure nothing: not compared, not logged, not varied."""
NOT_COPIED = ("slot", "title")
"""Not copied with a preset: each has its own."""

# files
PATH_KEYS = (
    "model.id",
    "model.chat_template",
    "model.from_run",
    "data.id",
    "data.test",
    "data.validation",
    "evaluation.forgetting_text",
    "evaluation.benchmarks",
)
"""May name a file or folder, or a list of them: made absolute when a preset is read, because workers run elsewhere."""
RELOCATABLE_KEYS = ("model.id", "data.id", "data.validation", "data.test")
"""The PATH_KEYS that may change when a run or ladder is resumed where its files are elsewhere, and that are not part of
a run's identity: the worker compares rows and weights with those of the first start. The others are fixed, as they
configure how a run is computed and scored; of `model.from_run` the run's directory has a copy."""

# resuming a run, or starting from another one
DEVICE_KEYS = ("hardware.device", "train.devices", "train.parallelism")
"""Where a run is computed: these and RELOCATABLE_KEYS alone may change when it is resumed."""
SAME_AS_STARTING_RUN = (
    "model.id",
    "model.revision",
    "model.chat_template",
    "model.enable_thinking",
    "adapter.rank",
    "adapter.alpha",
    "adapter.target_modules",
    "adapter.rslora",
    "adapter.dora",
    "quantization.type",
    "quantization.double",
)
"""Have to equal those of the run in `model.from_run`, with the method: its weights fit no others."""
OF_ONE_MODEL = ("model.revision", "model.from_run")
"""Dropped on the bench with the model that they belong to."""

# ladders
SHARED_KEYS = (
    "model.id",
    "model.revision",
    "model.chat_template",
    "model.enable_thinking",
    "data",
    "train.epochs",
    "train.steps",
    "train.batch",
    "train.max_length",
    "train.select",
    "train.patience",
    "evaluation.metric",
    "evaluation.reasoning_tags",
    "evaluation.max_new_tokens",
    "evaluation.generated_only",
    "evaluation.rows",
    "evaluation.forgetting_text",
    "evaluation.benchmarks",
    "evaluation.benchmark_limit",
)
"""Keys and sections that have to be equal in all rungs of a ladder. Other settings may differ, and are shown."""
LADDER_KEYS = ("method", "evaluation.when", "evaluation.base_shots")
"""Set by the ladder itself: refused in `--set`, `--rung` and `--vary`."""
NOT_VARIED = (*LADDER_KEYS, "train.seed", *DESCRIPTIVE_KEYS)
"""Refused in `--vary`."""
UNRELATED_KEYS = (
    *DESCRIPTIVE_KEYS,
    "cost.price_per_hour",
    "cost.currency",
    "cost.max_other_load",
    "hardware.device",  # the machine and its slots are part of the identity
    "model.enable_thinking",  # the fingerprint of the data includes the prompts
)
"""Change no number of a run: a ladder reuses runs with other values. One that is missing here repeats earlier runs."""
UNRELATED_SECTIONS = ("executor.", "track.")
"""Change no number of a run, like UNRELATED_KEYS."""

# what others are told of a run
NOT_ON_CARD_SECTIONS = ("slot", "hardware.", "cost.", "executor.", "track.")
"""Where and for whom a run was trained, not how: left out of the model card."""
NOT_TRACKED = (*DESCRIPTIVE_KEYS, "track.to", "track.project", "track.online")
"""Not logged to trackers as settings of the run."""
