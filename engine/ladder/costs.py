"""The rule of thumb's eighth of the cost, held against what was measured: time, energy, memory, rent."""

from __future__ import annotations

from collections.abc import Callable

from engine.ladder import format as say
from engine.ladder.findings import Findings, Holds, training_peak
from engine.runs.ladder import RungResult, SeedRange, Topic

Said = tuple[Topic, str]
"""Topic and sentence."""


def costs(found: Findings) -> list[Said]:
    """Nothing where QLoRA or full has no score."""
    qlora, full = found.qlora, found.full
    if qlora is None or full is None:
        return []
    said: list[Said] = []
    measured: list[tuple[Topic, str, str, SeedRange | None, SeedRange | None]] = [
        ("time", "training", "training time", qlora.training_seconds, full.training_seconds),
        ("time", "time", "time in all", qlora.all_seconds, full.all_seconds),
        ("energy", "energy", "energy", qlora.energy, full.energy),
    ]
    for topic, key, what, mine, other in measured:
        show = say.energy if topic == "energy" else say.seconds
        if mine and other:
            said.append((topic, _cost(what, mine, other, show, found.rule_costs[key])))
    if not (qlora.energy and full.energy):
        said.append(("energy", "Energy was not measured: nothing on this machine meters it."))
    peaks = training_peak(qlora.peak), training_peak(full.peak)
    if peaks[0] and peaks[1]:
        ratio = f"QLoRA's peak memory while training is {say.ratio(peaks[0] / peaks[1])} full's"
        sizes = f"({say.size(peaks[0])} against {say.size(peaks[1])})"
        said.append(("memory", f"{ratio} {sizes}: {_eighth(found.rule_costs['memory'])}"))
    said += _rent(qlora, full, found.rule_costs["rent"])
    return said


def _cost(what: str, mine: SeedRange, other: SeedRange, show: Callable[[float | None], str], holds: Holds) -> str:
    ratio = say.ratio(mine.mean / other.mean) if other.mean else "–"
    own, whole = seen(mine, show), seen(other, show)
    comma = "," if "," in own else ""
    return f"QLoRA's {what} is {ratio} full's ({own}{comma} against {whole}): {_eighth(holds)}"


def seen(spread: SeedRange, show: Callable[[float | None], str], each: str = "") -> str:
    """`48.4 s a run, 47.3 s – 49.9 s`: the mean, `each` of what, and of several seeds the lowest and the highest."""
    return ", ".join(filter(None, (f"{show(spread.mean)}{each}", say.extent(spread, show))))


def _eighth(holds: Holds) -> str:
    return {
        "holds": "one eighth or less, as the rule says.",
        "fails": "more than the rule's one eighth.",
        "undecided": "the seeds fall on both sides of the rule's one eighth.",
        "unknown": "against the rule's one eighth it cannot be held.",
    }[holds]


def _rent(qlora: RungResult, full: RungResult, holds: Holds) -> list[Said]:
    if not qlora.rent or not full.rent:
        return []
    guess = f" ({qlora.rent_note})" if qlora.rent_note else ""
    if qlora.rent.gpu == full.rent.gpu:
        price = say.money(full.rent.price_per_hour, full.rent.currency)
        return [("rent", f"{full.rent.gpu} at {price} an hour is the cheapest for both{guess}: no rent is saved.")]
    prices = [say.money(row.rent.price_per_hour, row.rent.currency) for row in (qlora, full) if row.rent]
    text = f"QLoRA fits {qlora.rent.gpu} at {prices[0]} an hour, full wants {full.rent.gpu} at {prices[1]}{guess}"
    if qlora.rent.currency != full.rent.currency or not full.rent.price_per_hour:
        return [("rent", f"{text}.")]
    ratio = say.ratio(qlora.rent.price_per_hour / full.rent.price_per_hour)
    return [
        ("rent", f"{text}: {ratio} the price of an hour, {_eighth(holds)} How long it takes there was not measured.")
    ]
