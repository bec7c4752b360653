"""Create the plan of a ladder from a preset and a command line: rungs and seeds on the same work."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

from engine.config.errors import UserError
from engine.config.method_specs import method_names, reads
from engine.config.preset import Flat, flatten, parse_overrides
from engine.config.preset_library import effective
from engine.config.schema import Config
from engine.config.split_version import SPLIT_VERSION
from engine.runs.ladder import BASES, LadderPlan, Rung

SAME = (
    "model.id",
    "model.revision",
    "model.chat_template",
    "data",
    "train.epochs",
    "train.steps",
    "train.batch",
    "train.max_length",
    "evaluation.metric",
    "evaluation.max_new_tokens",
    "evaluation.rows",
    "evaluation.general",
)
"""Keys and sections that must be equal for all rungs. Other keys may differ and are reported."""
SET_BY_LADDER = ("method", "evaluation.when")
"""Keys that a ladder sets itself."""
_SEPARATOR = re.compile(r",(?=\s*(?:\w+\.[\w.]+|method)\s*=)")
"""Comma between two settings of a rung, but not inside a value such as adapter.targets=["q_proj","v_proj"]."""
MAX_SEEDS = 20
MAX_LEARNING_RATES = 9


def make_plan(
    preset: str,
    rungs: Sequence[str],
    overrides: Flat,
    seeds: int = 1,
    learning_rates: int = 1,
    probe: bool = True,
    fresh: bool = False,
    command: str = "",
) -> LadderPlan:
    """The plan for `ftbench ladder`. Raises UserError for rungs that cannot be compared, naming the key.

    `rungs`: arguments of `--rung`, such as `lora` or `wide=lora,adapter.rank=64`. If empty: all methods.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise _out_of_range(seeds, "--seeds", MAX_SEEDS, "ladder.seeds")
    if not 1 <= learning_rates <= MAX_LEARNING_RATES:
        raise _out_of_range(learning_rates, "--learning-rates", MAX_LEARNING_RATES, "ladder.learning_rates")
    do = "remove it, and select methods with --rung"
    _refuse(SET_BY_LADDER, overrides, "set by the ladder itself", do, "ladder.key_set_by_ladder")
    planned = [_rung(word, preset, overrides) for word in rungs or method_names()]
    refuse_names(planned)
    unread = [key for key in overrides if not any(reads(rung.method, key) for rung in planned)]
    _refuse(unread, overrides, "no rung reads this key", "remove it, or add a rung that reads it", "ladder.unread_key")
    refuse_different_work(planned)
    if planned[0].config.data.test == 0:
        do = "set it to a file of test rows or to a fraction"
        raise UserError("no test rows to score", "data.test", do, code="ladder.no_test_rows")
    first = planned[0].config.train.seed
    if learning_rates > 1 and planned[0].config.data.validation == 0:
        what = "no validation rows to select a learning rate"
        raise UserError(what, "data.validation", "set it to 0.05", code="ladder.no_validation_rows")
    return LadderPlan(
        preset=preset,
        created=time.time(),
        rungs=planned,
        seeds=list(range(first, first + seeds)),
        learning_rates=learning_rates,
        probe=probe,
        fresh=fresh,
        command=command,
        split_version=SPLIT_VERSION,
    )


def refuse_names(rungs: Sequence[Rung]) -> None:
    """Raise UserError for ambiguous rung names: duplicates, names of the base, names of another method."""
    names = [rung.name.lower() for rung in rungs]
    for rung in rungs:
        name = rung.name.lower()
        what = f"duplicate rung name {rung.name!r}" if names.count(name) > 1 else ""
        what = f"reserved rung name {rung.name!r}" if name in BASES else what
        if name in method_names() and name != rung.method:
            what = f"rung name {rung.name!r} is another method's name: its method is {rung.method}"
        if what:
            do = "give each rung its own name, as in --rung wide=lora,adapter.rank=64"
            raise UserError(what, "--rung", do, code="ladder.rung_name")


def refuse_different_work(rungs: Sequence[Rung]) -> None:
    """Raise UserError if two rungs differ in a key that all rungs must share."""
    first = rungs[0]
    for other in rungs[1:]:
        for key, value in work_of(other.config).items():
            if value != (reference := work_of(first.config)[key]):
                what = f"rungs differ in {key}: {reference!r} for {first.name}, {value!r} for {other.name}"
                raise UserError(what, "--rung", "set it for all rungs with --set", code="ladder.different_work")


def work_of(config: Config) -> Flat:
    """The keys of a configuration that all rungs must share, with their values."""
    return {key: value for key, value in flatten(config).items() if key in SAME or key.split(".")[0] in SAME}


def differing(rungs: Sequence[Rung]) -> dict[str, dict[str, object]]:
    """Keys that differ between the rungs: key -> rung -> value."""
    flats = {rung.name: flatten(rung.config) for rung in rungs}
    keys = [key for key in next(iter(flats.values())) if key not in ("title", "about", "slot", "train.seed")]
    values = {key: {name: flat[key] for name, flat in flats.items()} for key in keys}
    return {key: row for key, row in values.items() if any(value != next(iter(row.values())) for value in row.values())}


def shared(rungs: Sequence[Rung]) -> Flat:
    """Keys that are equal for all rungs, with their values."""
    different = differing(rungs)
    return {
        key: value
        for key, value in flatten(rungs[0].config).items()
        if key not in different and key not in ("title", "about", "slot", "train.seed", "evaluation.when")
    }


def _rung(word: str, preset: str, overrides: Flat) -> Rung:
    name, equals, rest = word.partition("=")
    method, comma, given = rest.partition(",") if equals else (name, "", "")
    if method not in method_names():
        do = f"use {', '.join(method_names())}, or NAME=METHOD,KEY=VALUE as in wide=lora,adapter.rank=64"
        raise UserError(f"unknown method {method!r}", "--rung", do, code="ladder.unknown_method")
    if not name or not all(character.isalnum() or character in "-_" for character in name) or len(name) > 24:
        do = "use at most 24 letters, digits, '-' and '_'"
        raise UserError(f"invalid rung name {name!r}", "--rung", do, code="ladder.rung_name")
    settings = parse_overrides(_SEPARATOR.split(given) if comma else [], "--rung")
    do = "remove it: all rungs train with the ladder's seeds"
    _refuse((*SET_BY_LADDER, "train.seed"), settings, "not allowed for a single rung", do, "ladder.key_set_by_ladder")
    common = {key: value for key, value in overrides.items() if reads(method, key)}
    return Rung(name=name, config=effective(preset, method, {**common, **settings}).config, settings=settings)


def _out_of_range(number: int, option: str, maximum: int, code: str) -> UserError:
    return UserError(f"invalid number {number}", option, f"use 1 to {maximum}", code=code)


def _refuse(keys: Iterable[str], given: Flat, what: str, do: str, code: str) -> None:
    """Raise UserError if one of the keys is given."""
    for key in keys:
        if key in given:
            raise UserError(what, key, do, code=code)
