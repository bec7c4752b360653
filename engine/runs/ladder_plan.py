"""From a preset and a command line to the plan of a ladder: which rungs, which seeds, on the same work."""

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
    "evaluation.forgetting_text",
)
"""Keys, or whole sections, that make two rungs the same work. The rest is a method's own business, and is shown."""
OWN = ("method", "evaluation.when")
"""Keys that a ladder sets itself."""
_BETWEEN = re.compile(r",(?=\s*(?:\w+\.[\w.]+|method)\s*=)")
"""Between two settings of a rung: a comma may stand in a value too, adapter.target_modules=["q_proj","v_proj"]."""
MOST_SEEDS = 20
MOST_RATES = 9


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
    """The plan for `ftbench ladder`. Raises UserError for what cannot be compared, naming the field.

    `rungs` are the command line's words: `lora`, or `wide=lora,adapter.rank=64`. None of them: the three methods.
    """
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"{seeds} seeds", "--seeds", f"1 to {MOST_SEEDS}")
    if not 1 <= learning_rates <= MOST_RATES:
        raise UserError(f"{learning_rates} learning rates", "--learning-rates", f"1 to {MOST_RATES}")
    _refuse(OWN, overrides, "a ladder sets it itself", "drop it; --rung says which methods")
    made = [_rung(word, preset, overrides) for word in rungs or method_names()]
    refuse_names(made)
    unread = [key for key in overrides if not any(reads(rung.method, key) for rung in made)]
    _refuse(unread, overrides, "none of the rungs reads it", "drop it or add a rung that does")
    refuse_different_work(made)
    if made[0].config.data.test == 0:
        do = "set it to a file of test rows or to a share"
        raise UserError("no test rows: a ladder has nothing to score", "data.test", do, code="ladder.no_test_rows")
    first = made[0].config.train.seed
    if learning_rates > 1 and made[0].config.data.validation == 0:
        raise UserError(
            "learning rates are chosen on validation rows and there are none", "data.validation", "set it to 0.05"
        )
    return LadderPlan(
        preset=preset,
        created=time.time(),
        rungs=made,
        seeds=list(range(first, first + seeds)),
        learning_rates=learning_rates,
        probe=probe,
        fresh=fresh,
        command=command,
        split_version=SPLIT_VERSION,
    )


def refuse_names(rungs: Sequence[Rung]) -> None:
    """Raises UserError where a name would mislead: given twice, the base's, or another method's."""
    names = [rung.name.lower() for rung in rungs]
    for rung in rungs:
        name = rung.name.lower()
        what = f"two rungs are called {rung.name}" if names.count(name) > 1 else ""
        what = f"a rung cannot be called {rung.name}" if name in BASES else what
        what = (
            f"a rung of {rung.method} cannot be called {rung.name}"
            if name in method_names() and name != rung.method
            else what
        )
        if what:
            raise UserError(what, "--rung", "name them apart: --rung wide=lora,adapter.rank=64")


def refuse_different_work(rungs: Sequence[Rung]) -> None:
    """Raises UserError where two rungs would not do the same work."""
    first = rungs[0]
    for other in rungs[1:]:
        for key, value in work_of(other.config).items():
            if value != (mine := work_of(first.config)[key]):
                raise UserError(
                    f"not the same work: {key} is {mine!r} for {first.name} and {value!r} for {other.name}",
                    "--rung",
                    "set it for all rungs with --set",
                )


def work_of(config: Config) -> Flat:
    """The part of a configuration that all rungs must share."""
    return {key: value for key, value in flatten(config).items() if key in SAME or key.split(".")[0] in SAME}


def differing(rungs: Sequence[Rung]) -> dict[str, dict[str, object]]:
    """Keys in which the rungs' configurations differ: key -> rung -> value."""
    flats = {rung.name: flatten(rung.config) for rung in rungs}
    keys = [key for key in next(iter(flats.values())) if key not in ("title", "about", "slot", "train.seed")]
    values = {key: {name: flat[key] for name, flat in flats.items()} for key in keys}
    return {key: row for key, row in values.items() if any(value != next(iter(row.values())) for value in row.values())}


def shared(rungs: Sequence[Rung]) -> Flat:
    """Keys in which all rungs agree, with their values."""
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
        what = f"{method!r} is not a method"
        raise UserError(
            what, "--rung", f"{', '.join(method_names())}, or NAME=METHOD,KEY=VALUE as in wide=lora,adapter.rank=64"
        )
    if not name or not all(character.isalnum() or character in "-_" for character in name) or len(name) > 24:
        raise UserError(f"{name!r} is not a name for a rung", "--rung", "letters, digits, - and _, at most 24")
    settings = parse_overrides(_BETWEEN.split(given) if comma else [], "--rung")
    _refuse((*OWN, "train.seed"), settings, "no rung has its own", "all rungs train with the ladder's seeds")
    everywhere = {key: value for key, value in overrides.items() if reads(method, key)}
    return Rung(name=name, config=effective(preset, method, {**everywhere, **settings}).config, settings=settings)


def _refuse(keys: Iterable[str], given: Flat, what: str, do: str) -> None:
    """Raises UserError where one of the keys is given."""
    for key in keys:
        if key in given:
            raise UserError(what, key, do)
