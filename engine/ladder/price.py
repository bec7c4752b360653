"""The price of a rung's runs on this machine, and the cheapest GPU to rent that has enough memory."""

from __future__ import annotations

from engine.config import gpu_prices
from engine.runs.ladder import Ladder
from engine.runs.rung_results import RentalPrice, RungResult, SeedRange
from engine.runs.rungs import Rung


def add_price(row: RungResult, rung: Rung, ladder: Ladder) -> None:
    """Fill in the row's price per run and rental GPU, or a note why they are unknown."""
    known = gpu_prices.list_gpus()
    local = gpu_prices.find_gpu(str(ladder.machine.get("device", "")), known)
    price, devices = rung.config.cost.price_per_hour, rung.config.train.devices
    row.currency = rung.config.cost.currency if price is not None else local.currency if local else row.currency
    if price is None and local:
        price, row.money_note = local.price_per_hour * devices, f"at the list price of {local.name}"
        if devices > 1:
            row.money_note += f", for {devices} of them"
    if price is None:
        row.money_note = "set cost.price_per_hour, the price of this machine is unknown"
    elif row.all_seconds:
        seconds = row.all_seconds
        row.money = SeedRange(**{at: getattr(seconds, at) * price / 3600 for at in ("mean", "low", "high")})
    peak = row.peak
    on_gpu = bool(peak and (peak.nvml_used or peak.reserved))
    need = (peak.nvml_used or peak.reserved or peak.rss) if peak else None
    gpu = gpu_prices.cheapest_gpu(need, known) if need else None
    if gpu:
        row.rent = RentalPrice(
            gpu=f"{devices} × {gpu.name}" if devices > 1 else gpu.name,
            memory=gpu.bytes,
            price_per_hour=gpu.price_per_hour * devices,
            currency=gpu.currency,
        )
    if not on_gpu:
        row.rent_note = "estimated from resident memory, without a GPU"
    elif not gpu:
        row.rent_note = "no listed GPU has enough memory"
