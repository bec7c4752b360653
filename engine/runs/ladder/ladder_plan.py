"""Make the plan of a ladder from a preset and a command line, and forecast its duration and statistical power."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, variance

from engine.config.errors import Notice, UserError
from engine.config.method_specs import LORA, LORA_VARIANTS, method_names, method_spec, reads
from engine.config.metric_specs import AUTO, DEFAULT_MARGIN, metric_spec
from engine.config.preset_library import resolve_preset
from engine.config.schema import DESCRIPTIVE_KEYS, LADDER_KEYS, SHARED_KEYS, Config
from engine.config.settings import Flat, flatten, parse_overrides
from engine.config.text import amount
from engine.runs.ladder.ladder_dir import states
from engine.runs.ladder.ladder_state import ARTIFACT_SEPARATOR, AddedRung, Ladder, LadderPlan, Rung, is_base
from engine.runs.ladder.rung_kinds import rung_kind, rung_kinds
from engine.runs.run.exports import artifact_words, parse_artifact

_SETTING_SEPARATOR = re.compile(r",(?=\s*(?:\w+\.[\w.]+|method)\s*=)")
"""The comma before a key; commas in values do not separate: adapter.target_modules=["q_proj","v_proj"]."""
MAX_SEEDS = 20
DEFAULT_MAX_SEEDS = 8
"""Of a ladder that runs until its questions are decided."""
MAX_LEARNING_RATES = 9
MAX_SHOTS = 64
MAX_NAME = 24
"""Characters of a rung's name."""


def make_plan(
    preset: str,
    rungs: Sequence[str],
    overrides: Flat,
    seeds: int = 1,
    learning_rates: int = 1,
    probe: bool = True,
    fresh: bool = False,
    command: str = "",
    ship: Sequence[str] = (),
    margin: float = DEFAULT_MARGIN,
    retime: bool = False,
    base_shots: Sequence[int] = (),
    prices: Sequence[str] = (),
    max_seeds: int | None = None,
) -> LadderPlan:
    """The plan for `ftbench ladder`. Raises UserError if the rungs cannot be compared.

    `rungs` are values of `--rung`: `lora`, or `wide=lora,adapter.rank=64`. Without any, all methods are rungs. `ship`
    are artifacts, `merged` of every rung or `lora:merged` of one. Rungs that are not trained are read by
    extensions, such as addresses; `prices` are those of all of them, `0.15,0.6`, or of one, `big=0.15,0.6`.
    `max_seeds`: to run until the questions are decided, with at most this many seeds instead of `seeds`.
    """
    added = added_rungs(rungs, prices)
    rungs = [word for word in rungs if not any(kind.matches(word) for kind in rung_kinds().values())]
    if max_seeds is not None:
        option, code = "--until-decided", "ladder.until_decided"
        _refuse_number("seeds", max_seeds, (2, MAX_SEEDS), "--max-seeds", "ladder.seeds")
        if seeds != 1:
            problem, hint = f"--seeds {seeds} fixes the number of seeds", "remove it; --max-seeds limits them"
            raise UserError(problem, option, hint, code=code)
        if ship:
            problem = "artifacts are compared with a fixed number of seeds"
            hint = "remove --ship, and export the recommended rung with `ftbench export LADDER`"
            raise UserError(problem, option, hint, code=code)
        seeds = max_seeds
    _refuse_number("seeds", seeds, (1, MAX_SEEDS), "--seeds", "ladder.seeds")
    limits = 1, MAX_LEARNING_RATES
    _refuse_number("learning rates", learning_rates, limits, "--learning-rates", "ladder.learning_rates")
    for count in base_shots:
        _refuse_number("examples", count, (0, MAX_SHOTS), "--base-shots", "ladder.base_shots")
    if not 0 <= margin < math.inf:
        raise UserError(f"invalid margin {margin:g}", "--margin", "use a number of points from 0", code="ladder.margin")
    planned, notices = _rungs(rungs, preset, overrides)
    if added and planned[0].config.evaluation.metric == AUTO.name:  # other runs can be reused
        planned, notices = _rungs(rungs, preset, {**overrides, "evaluation.generated_only": True})
    if added and metric_spec(planned[0].config.evaluation.metric).picks_from_choices:
        planned, notices = _rungs(rungs, preset, {**overrides, "evaluation.metric": "exact_match"})
        why = f"a {rung_kind(added[0].kind).noun} has no likelihoods"
        text = f"{why}: every rung's generated label is read, by exact_match instead of choice"
        notices = [*notices, Notice("ladder.generated_labels", text)]
    refuse_missing_splits(planned[0].config.data.test, planned[0].config.data.validation, learning_rates)
    return LadderPlan(
        preset=preset,
        created=time.time(),
        rungs=planned,
        seeds=[planned[0].config.train.seed + number for number in range(seeds)],
        until_decided=max_seeds is not None,
        learning_rates=learning_rates,
        ship=artifact_rungs(ship, planned),
        probe=probe,
        margin=margin,
        fresh=fresh,
        retime=retime,
        added=added,
        base_shots=sorted({count for count in base_shots if count}),  # 0: the base model without examples
        command=command,
        notices=notices,
    )


def _rungs(rungs: Sequence[str], preset: str, overrides: Flat) -> tuple[list[Rung], list[Notice]]:
    """The rungs, which do the same work, and what is noticed about their settings."""
    set_by_ladder = "this setting is set by the ladder", "remove it; --rung sets the methods"
    _refuse(LADDER_KEYS, overrides, *set_by_ladder, "ladder.key_set_by_ladder")
    notices: dict[Notice, None] = {}
    planned = [_rung(option, preset, overrides, notices) for option in rungs or method_names()]
    names = [rung.name.lower() for rung in planned]
    for name, rung in zip(names, planned, strict=True):
        is_reserved = is_base(name) or (name in method_names() and name != rung.method)
        if is_reserved or names.count(name) > 1:
            problem = f"{'reserved' if is_reserved else 'duplicate'} rung name {rung.name}"
            hint = "choose another name, as in --rung wide=lora,adapter.rank=64"
            raise UserError(problem, "--rung", hint, code="ladder.rung_name")
    if any(rung.config.model.from_run for rung in planned):
        hint = "remove it; `ftbench run --from` continues a run"
        raise UserError("a ladder starts from the base model", "model.from_run", hint, code="ladder.from_run")
    unread = [key for key in overrides if not any(reads(rung.method, key) for rung in planned)]
    _refuse(unread, overrides, "no rung uses this setting", "remove it or add a rung that uses it", "ladder.unread_key")
    first, expected = planned[0], work_of(planned[0].config)
    for other in planned[1:]:
        for key, value in work_of(other.config).items():
            if value != expected[key]:
                problem = f"rungs differ in {key}, {expected[key]!r} for {first.name} and {value!r} for {other.name}"
                raise UserError(problem, "--rung", "set it for all rungs with --set", code="ladder.different_work")
    return planned, list(notices)


def added_rungs(words: Sequence[str], prices: Sequence[str]) -> list[AddedRung]:
    """The values of `--rung` that extensions know. Raises UserError for an invalid one, name or price."""
    added: list[AddedRung] = []
    for kind in rung_kinds().values():
        if own := [word for word in words if kind.matches(word)]:
            added += kind.plan(own, prices)
    if prices and not added:
        hint = "remove it, or name the rung that has it with --rung"
        raise UserError("no rung has this price", f"--price {prices[0]}", hint, code="ladder.served_price")
    names = [rung.name for rung in added]
    for name in names:
        _check_name(name)
        if names.count(name) > 1:
            hint = "name them, as in --rung big=http://host/v1#model"
            raise UserError(f"duplicate rung name {name}", "--rung", hint, code="ladder.rung_name")
    return added


def artifact_rungs(ship: Sequence[str], rungs: Sequence[Rung]) -> list[str]:
    """The names of the artifacts' rungs, each artifact of a rung once, in the order of the rungs.

    An adapter is left out for rungs that train all weights. Raises UserError for an unknown artifact or rung, and for
    an artifact that no rung has.
    """
    of_rung: dict[str, dict[str, None]] = {rung.name: {} for rung in rungs}
    for given in ship:
        only, separator, word = given.strip().rpartition(ARTIFACT_SEPARATOR)
        if separator and only not in of_rung:
            hint = f"use one of {', '.join(of_rung)}"
            raise UserError(f"unknown rung {only!r}", f"--ship {given}", hint, code="ladder.unknown_rung")
        try:
            artifact = parse_artifact(word)
        except ValueError as error:
            hint = f"use {', '.join(artifact_words())}"
            raise UserError(f"unknown artifact {word!r}", "--ship", hint, code="ladder.unknown_artifact") from error
        wanted = [rung for rung in rungs if only in ("", rung.name)]
        having = [r for r in wanted if artifact.kind != "adapter" or not method_spec(r.method).trains_weights]
        if not having:
            problem = "no rung has this artifact: all of them train all weights"
            problem = f"{only} trains all weights: there is no adapter" if only else problem
            raise UserError(problem, f"--ship {given}", "use merged", code="ladder.no_artifact")
        for rung in having:
            of_rung[rung.name][artifact.word] = None
    return [f"{rung}{ARTIFACT_SEPARATOR}{word}" for rung, words in of_rung.items() for word in words]


def _refuse_number(what: str, number: int, limits: tuple[int, int], option: str, code: str) -> None:
    if not limits[0] <= number <= limits[1]:
        hint = f"use {limits[0]} to {limits[1]}"
        raise UserError(f"invalid number of {what} {number}", option, hint, code=code)


def refuse_missing_splits(test: str | float | None, validation: str | float, learning_rates: int) -> None:
    """Raises UserError without test rows, as configured or as read, or without validation rows for learning rates."""
    if test == 0:
        hint = "set it to a file of test rows or to a share, or add rows"
        raise UserError("no test rows to score", "data.test", hint, code="ladder.no_test_rows")
    if learning_rates > 1 and validation == 0:
        problem = "no validation rows to choose learning rates on"
        hint = "set it to 0.05 or more, add rows, or omit --learning-rates"
        raise UserError(problem, "data.validation", hint, code="ladder.no_validation_rows")


def work_of(config: Config) -> Flat:
    """The part of a configuration that has to be equal in all rungs."""
    return {key: value for key, value in flatten(config).items() if key in SHARED_KEYS}


def differing_settings(rungs: Sequence[Rung]) -> dict[str, dict[str, object]]:
    """Settings in which the rungs differ: key -> rung -> value."""
    flats = {rung.name: flatten(rung.config) for rung in rungs}
    keys = [key for key in next(iter(flats.values())) if key not in (*DESCRIPTIVE_KEYS, "train.seed")]
    values = {key: {name: flat[key] for name, flat in flats.items()} for key in keys}
    return {key: row for key, row in values.items() if any(value != next(iter(row.values())) for value in row.values())}


def shared(rungs: Sequence[Rung]) -> Flat:
    """Settings that are equal in all rungs."""
    different = differing_settings(rungs)
    return {
        key: value
        for key, value in flatten(rungs[0].config).items()
        if key not in different and key not in (*DESCRIPTIVE_KEYS, "train.seed", "evaluation.when")
    }


def describe_plan(plan: LadderPlan) -> str:
    """What will be run, in one line: `base, qlora, lora, full; 3 seeds; a timing probe of each rung: 12 runs`."""
    names = ", ".join(rung.name for rung in plan.rungs)
    rates = f"; {plan.learning_rates} learning rates per rung" if plan.learning_rates > 1 else ""
    probes = "; a timing probe of each rung" if plan.probe else ""
    shipped = f"; artifacts {', '.join(plan.ship)}" if plan.ship else ""
    exports = f" and {amount(len(plan.ship) * len(plan.seeds), 'export')}" if plan.ship else ""
    runs = f"{amount(plan.run_count, 'run')}{exports}"
    seeds = amount(len(plan.seeds), "seed")
    if plan.until_decided:
        seeds, runs = f"2 to {seeds}, until the questions are decided", f"at most {runs}"
    return f"base, {names}; {seeds}{rates}{probes}{shipped}: {runs}"


def _rung(option: str, preset: str, overrides: Flat, notices: dict[Notice, None]) -> Rung:
    """The rung of one `--rung`; adds what its configuration left out or renamed to `notices`."""
    name, equals, rest = option.partition("=")
    method, comma, given = rest.partition(",") if equals else (name, "", "")
    variant = LORA_VARIANTS.get(method, {})
    method = LORA.name if variant else method
    if method not in method_names():
        names = ", ".join((*method_names(), *LORA_VARIANTS))
        hint = f"use {names}, or NAME=METHOD,KEY=VALUE as in wide=lora,adapter.rank=64"
        raise UserError(f"unknown method {method!r}", "--rung", hint, code="ladder.unknown_method")
    _check_name(name)
    settings = {**variant, **parse_overrides(_SETTING_SEPARATOR.split(given) if comma else [], "--rung")}
    equal = "this setting cannot differ between rungs", "remove it; all rungs use the ladder's methods and seeds"
    _refuse((*LADDER_KEYS, "train.seed"), settings, *equal, "ladder.key_set_by_ladder")
    common = {key: value for key, value in overrides.items() if reads(method, key)}
    effective = resolve_preset(preset, method, {**common, **settings})
    notices.update(dict.fromkeys(effective.notices))
    rate_origin = effective.origins["train.learning_rate"]
    return Rung(name=name, config=effective.config, settings=settings, rate_origin=rate_origin)


def _check_name(name: str) -> None:
    """Raises UserError for a name of a rung that is empty, too long or has other characters."""
    if not name or not all(character.isalnum() or character in "-_" for character in name) or len(name) > MAX_NAME:
        hint = f"use letters, digits, - and _, at most {MAX_NAME} characters"
        raise UserError(f"invalid rung name {name!r}", "--rung", hint, code="ladder.rung_name")


def _refuse(keys: Iterable[str], given: Flat, problem: str, hint: str, code: str) -> None:
    for key in keys:
        if key in given:
            raise UserError(problem, key, hint, code=code)


# The forecast is approximate, not a test: it assumes normal distributions, and takes the half-widths of simultaneous
# intervals, in standard errors, from simulated ladders of three rungs.

PRIOR_SEED_STD = 0.015
"""Standard deviation between seeds without an earlier ladder: 1.5 points, the median of the statistics' prior."""
PRIOR_DIFFERING = 0.2
"""Share of test items on which two rungs differ without an earlier ladder."""
PRIOR_ITEMS = 300
"""Test items without an earlier ladder and without `evaluation.rows`."""
CRITICAL = {1: 4.2, 2: 3.3, 3: 2.45, 4: 2.3}
"""Seeds -> half a simultaneous interval in standard errors; fewer seeds say less about their own spread."""
CRITICAL_MANY = 2.2
DIFFERENCES = (0.02, 0.05, 0.1)
"""Differences whose power is forecast: 2, 5 and 10 points of a share, 0.02, 0.05 and 0.1 nats/token of a loss."""
MIN_VARIANCE = {True: 1e-3, False: 1e-6}
"""Least variance of the paired difference of one item, of a share and of a loss."""


class Forecast:
    """Hours and power by number of seeds: from the latest finished ladder with the same model, data and length of
    training, else from assumed values. Nothing is assumed about losses, whose spread depends on model and data.
    """

    def __init__(self, plan: LadderPlan, runs: Path, decide_metric: Callable[[], str]) -> None:
        """`decide_metric` returns the automatic metric; it is called only if no earlier ladder has it."""
        config, self.rungs = plan.rungs[0].config, [rung.name for rung in plan.rungs]
        work = work_of(config).items()
        finished = (state for _, state in states(runs) if state.status == "finished" and state.work)
        same = (state for state in finished if all(state.config.get(key) == value for key, value in work))
        known = next((state for state in same if state.comparisons), None)
        self.run_seconds: dict[str, float] = {}
        """Rung -> mean seconds of a run; without rungs that no earlier ladder has."""
        self.seed_std: float | None = None
        """Standard deviation between seeds; None if it is unknown, as for losses without an earlier ladder."""
        self.item_variance: float | None = None
        """Variance of the paired difference of one item; None if it is unknown."""
        if known is None or known.work is None:
            self.metric = decide_metric() if config.evaluation.metric == AUTO.name else config.evaluation.metric
            self.items = config.evaluation.rows or PRIOR_ITEMS
            spec, none = metric_spec(self.metric), "no earlier ladder on this model, data and length of training"
            self.source = f"unknown: how much the {spec.title} differs between items and seeds; {none}"
            if spec.is_share:
                self.seed_std, self.item_variance = PRIOR_SEED_STD, PRIOR_DIFFERING
                self.source = f"assumed: {self.items} test items, {PRIOR_SEED_STD * 100:g} points between seeds, "
                self.source += f"rungs differ on {PRIOR_DIFFERING:.0%} of the items; {none}"
            return
        rows = [row for row in known.rows if not is_base(row.name) and not row.source]
        spreads = [variance(row.by_seed) for row in rows if len(row.by_seed) > 1]
        self.metric, self.items, spec = known.work.metric, known.work.test, metric_spec(known.work.metric)
        self.seed_std = math.sqrt(fmean(spreads)) if spreads else PRIOR_SEED_STD if spec.is_share else 0.0
        self.item_variance = _item_variance(known, self.seed_std)
        self.run_seconds = {row.name: row.all_seconds.mean for row in rows if row.all_seconds}
        shown = f"{self.seed_std * 100:.1f} points" if spec.is_share else f"{self.seed_std:.3f} {spec.unit}"
        between = f"{shown if spreads else 'one seed, nothing'} between seeds"
        self.source = f"from {known.name}: {self.items} test items, {between}"

    def hours(self, seeds: int) -> float | None:
        """Hours of all runs one after the other, without probes and trials; None if a rung's duration is unknown."""
        if not self.run_seconds.keys() >= set(self.rungs):
            return None
        return sum(self.run_seconds[name] for name in self.rungs) * seeds / 3600

    @property
    def differences(self) -> dict[str, float]:
        """Text -> difference whose power is forecast."""
        spec = metric_spec(self.metric)
        return {f"{size * spec.scale:g} {'points' if spec.is_share else spec.unit}": size for size in DIFFERENCES}

    def power(self, difference: float, seeds: int) -> float | None:
        """The chance that the interval of a true difference excludes 0 after this many seeds; None if it is unknown."""
        if self.item_variance is None or self.seed_std is None:
            return None
        error = math.sqrt(self.item_variance / self.items + 2 * self.seed_std**2 / seeds)
        return NormalDist().cdf(difference / error - CRITICAL.get(seeds, CRITICAL_MANY))


def _item_variance(ladder: Ladder, seed_std: float) -> float | None:
    """Mean over the pairs of trained rungs, from the widths of their intervals; None if no pair of losses has one."""
    variances = []
    seeds = {row.name: len(row.seeds) for row in ladder.rows}
    for compared in ladder.comparisons:
        low, high = compared.difference.low, compared.difference.high
        if is_base(compared.b) or low is None or high is None or ladder.work is None:
            continue
        fewest = max(1, min(seeds.get(compared.a, 1), seeds.get(compared.b, 1)))
        error = (high - low) / 2 / CRITICAL.get(fewest, CRITICAL_MANY)
        variances.append((error**2 - 2 * seed_std**2 / fewest) * ladder.work.test)
    is_share = metric_spec(ladder.metric).is_share
    if not variances:
        return PRIOR_DIFFERING if is_share else None
    return max(MIN_VARIANCE[is_share], fmean(variances))


def forecast_rows(prediction: Forecast, seeds: Sequence[int]) -> list[list[str]]:
    """A row per number of seeds: seeds, runs, hours, power of each difference."""
    rows = []
    for count in seeds:
        hours = prediction.hours(count)
        chances = [prediction.power(size, count) for size in prediction.differences.values()]
        powers = ["–" if chance is None else f"{chance:.0%}" for chance in chances]
        rows.append([str(count), str(count * len(prediction.rungs)), "–" if hours is None else f"{hours:.2g}", *powers])
    return rows
