"""What a rung's runs cost on this machine, and which card one would have to rent for them."""

from __future__ import annotations

from engine.config import gpu_prices
from engine.runs.ladder import Ladder, RentalPrice, Rung, RungResult, SeedRange


def add_price(row: RungResult, rung: Rung, ladder: Ladder) -> None:
    """What the runs cost here, and the cheapest card that would hold them."""
    known = gpu_prices.list_cards()
    here = gpu_prices.named(str(ladder.machine.get("device", "")), known)
    price = rung.config.cost.price_per_hour
    row.currency = rung.config.cost.currency if price is not None else here.currency if here else row.currency
    if price is None and here:
        price, row.money_note = here.price_per_hour, f"at the list price of {here.name}"
    if price is None:
        row.money_note = "no price known for this machine: set cost.price_per_hour"
    elif row.all_seconds:
        hourly = row.all_seconds
        row.money = SeedRange(**{at: getattr(hourly, at) * price / 3600 for at in ("mean", "low", "high")})
    peak = row.peak
    on_card = bool(peak and (peak.nvml_used or peak.reserved))
    need = (peak.nvml_used or peak.reserved or peak.rss) if peak else None
    card = gpu_prices.cheapest_for(need, known) if need else None
    if card:
        row.rent = RentalPrice(
            gpu=card.name, memory=card.bytes, price_per_hour=card.price_per_hour, currency=card.currency
        )
    if not on_card:
        row.rent_note = "a guess: from the resident set of a run without a card"
    elif not card:
        row.rent_note = "no listed card holds this"
