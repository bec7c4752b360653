"""Cards and their prices: shipped, the user's own, and which one a run would need."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.config import gpu_prices
from engine.config.errors import UserError

GIB = 2**30


def own(text: str) -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "ftbench"
    folder.mkdir(parents=True)
    (folder / "cards.toml").write_text(text)


def test_the_cheapest_card_that_holds_the_peak() -> None:
    known = gpu_prices.list_cards()
    assert [card.price_per_hour for card in known] == sorted(card.price_per_hour for card in known)
    small, large = gpu_prices.cheapest_for(8 * GIB, known), gpu_prices.cheapest_for(60 * GIB, known)
    assert small and large and small.price_per_hour < large.price_per_hour and large.memory >= 60
    assert gpu_prices.cheapest_for(1000 * GIB, known) is None


@pytest.mark.parametrize(
    ("nvml", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA L40S", "L40S 48GB"),
        ("NVIDIA L4", "L4 24GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB"),
        ("2 CPU cores", None),
        ("NVIDIA A100-SXM4-40GB", None),
    ],
)
def test_a_machines_card_is_found_by_its_name(nvml: str, name: str | None) -> None:
    found = gpu_prices.named(nvml, gpu_prices.list_cards())
    assert (found.name if found else None) == name


def test_ones_own_price_hides_the_shipped_one() -> None:
    own('[[card]]\nname = "A100 80GB"\nmatch = ["A100"]\nmemory = 79.2\nprice_per_hour = 1.1\ncurrency = "EUR"\n')
    (mine,) = [card for card in gpu_prices.list_cards() if card.name == "A100 80GB"]
    assert (mine.price_per_hour, mine.currency) == (1.1, "EUR")


@pytest.mark.parametrize(
    "text", ["card = 3", "[[card]]\nname = 'x'\nmemory = -1\nprice_per_hour = 1", "[[card]\n", "[[cards]]\n"]
)
def test_a_broken_list_is_one_line(text: str) -> None:
    own(text)
    with pytest.raises(UserError, match="not a list of cards"):
        gpu_prices.list_cards()
