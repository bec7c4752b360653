"""The plan of a ladder (`ladder.toml`): its rungs, their names, and the rounds of learning-rate trials."""

from __future__ import annotations

import re
from typing import Any

from msgspec import Struct, field

from engine.config.errors import Notice
from engine.config.metric_specs import DEFAULT_MARGIN
from engine.config.schema import Config
from engine.runs.run.exports import Artifact, parse_artifact

BASE, BASE_4BIT = BASES = ("base", "base-4bit")
"""Rows of the base model: as LoRA or full fine-tuning loads it, and in QLoRA's 4 bits."""
_FEW_SHOT = re.compile(r"base-(\d+)-shot", re.ASCII)


def few_shot_base(shots: int) -> str:
    """The row of the base model with this many training rows in each prompt."""
    return f"base-{shots}-shot"


def shots_of(name: str) -> int:
    """Examples in the prompts of such a row; 0 for every other row."""
    match = _FEW_SHOT.fullmatch(name)
    return int(match[1]) if match else 0


SERVED_PREFIX = "@"
"""Starts the rows of served models, `@big`; names of rungs cannot contain it."""


def is_served(name: str) -> bool:
    """Whether a row is a model behind a server."""
    return name.startswith(SERVED_PREFIX)


def is_base(name: str) -> bool:
    """Whether a row is a model that is not trained: the base model, in 4 bits or with examples too, or a served one."""
    return name in BASES or _FEW_SHOT.fullmatch(name) is not None or is_served(name)


class ServedModel(Struct, kw_only=True, frozen=True):
    """A model behind a server as a rung."""

    name: str
    endpoint: str
    """`http://host:8000/v1#model`."""
    price: list[float] = field(default_factory=list)
    """Of prompts and answers, per million tokens; empty if unknown."""
    concurrency: int = 8
    """Requests at a time."""

    @property
    def row(self) -> str:
        """The name of its row."""
        return f"{SERVED_PREFIX}{self.name}"


ARTIFACT_SEPARATOR = ":"
"""Between a rung and its artifact in an artifact's name, `lora:q4_k_m`; the names of trained rungs do not have it."""


def artifact_of(name: str) -> tuple[str, Artifact] | None:
    """(rung, artifact) of an artifact's rung, `lora:q4_k_m`; None for the name of a trained rung."""
    rung, separator, word = name.partition(ARTIFACT_SEPARATOR)
    return (rung, parse_artifact(word)) if separator else None


class Rung(Struct, kw_only=True, frozen=True):
    """A method with its settings. Its runs replace the seed, and its learning-rate trials the rate."""

    name: str
    config: Config
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of this rung from `--rung`, by dotted key."""
    rate_origin: str = ""
    """What sets its learning rate: `preset demo`, `default for lora`, `command line`."""

    @property
    def method(self) -> str:
        return self.config.method


COMPLETE_TRIALS = 3
"""Up to this many learning rates are compared in complete trials, more by successive halving."""
REDUCTION = 3
"""Factor by which the number of rates falls, and the length of trials rises, in each round of successive halving."""


def round_sizes(rates: int) -> list[int]:
    """Number of learning-rate trials of a rung in each round; none for one rate."""
    sizes = [rates] if rates > 1 else []
    while rates > COMPLETE_TRIALS and sizes[-1] > 2:
        sizes.append(max(2, -(-sizes[-1] // REDUCTION)))
    return sizes


class LadderPlan(Struct, kw_only=True, frozen=True):
    """The content of `ladder.toml`; does not change after the start."""

    preset: str
    created: float
    rungs: list[Rung]
    seeds: list[int]
    """With `until_decided` at most."""
    until_decided: bool = False
    """Whether to look after every round of seeds, and to run further seeds only for rungs with an open question."""
    learning_rates: int = 1
    """Rates tried per rung on the validation rows; 1: its configured rate without trials."""
    probe: bool = True
    """Whether to measure a few steps of every rung first."""
    ship: list[str] = field(default_factory=list)
    """Artifacts that are rungs too, as `lora:q4_k_m`: exported from each run of the rung, checked and compared."""
    margin: float = DEFAULT_MARGIN
    """Loss of quality up to which a rung is as good as another, in the unit of the metric."""
    served: list[ServedModel] = field(default_factory=list)
    """Models behind servers that answer the same items."""
    base_shots: list[int] = field(default_factory=list)
    """Numbers of training rows in the prompt with which the base model is scored too."""
    fresh: bool = False
    """Whether to run everything again instead of reusing finished runs."""
    retime: bool = False
    """Whether to run again what has a disturbed timing instead of reusing it."""
    command: str = ""
    """The command line that started the ladder."""
    started_in: str = ""
    """The directory it was started from."""
    notices: list[Notice] = field(default_factory=list)
    """Warnings of combining preset, rungs and command line, each once."""

    @property
    def run_count(self) -> int:
        """Number of runs, timing probes and learning-rate trials included."""
        trials = sum(round_sizes(self.learning_rates))
        return len(self.rungs) * (len(self.seeds) + trials + int(self.probe))

    @property
    def export_count(self) -> int:
        """Number of exports: one per artifact and seed."""
        return len(self.ship) * len(self.seeds)
