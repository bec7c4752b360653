"""Parse `--rung http://HOST/v1#MODEL` and its `--price`, without NumPy and torch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from engine.config.errors import UserError
from engine.runs.endpoint import is_endpoint, parse_endpoint, parse_price
from engine.runs.ladder.ladder_plan import MAX_NAME
from engine.runs.ladder.ladder_state import AddedRung
from engine.runs.ladder.rung_kinds import RungKind

PRICE = "price"
"""Setting of a rung: the prices of prompts and answers, per million tokens."""


def is_address(word: str) -> bool:
    """Whether a value of `--rung` is an address, or a name with one."""
    return is_endpoint(word) or is_endpoint(word.partition("=")[2])


def served_models(words: Sequence[str], prices: Sequence[str]) -> list[AddedRung]:
    """The served models of `--rung`, with their prices. Raises UserError for an invalid address or price."""
    rungs = []
    for word in words:
        given, _, address = ("", "", word) if is_endpoint(word) else word.partition("=")
        endpoint = parse_endpoint(address, "--rung")
        name = given or re.sub(r"[^A-Za-z0-9_-]+", "-", endpoint.model.rpartition("/")[2]).strip("-")[:MAX_NAME]
        rungs.append(AddedRung(kind="served", name=name, source=endpoint.name))
    for text in prices:
        only, _, value = text.rpartition("=")
        names = [rung.name for rung in rungs]
        if only and only not in names:
            hint = f"use one of {', '.join(names)}"
            raise UserError(f"no served model {only}", f"--price {text}", hint, code="ladder.served_price")
        price = list(parse_price(value, "--price") or ())
        rungs = [
            msgspec.structs.replace(rung, settings={PRICE: price}) if only in ("", rung.name) else rung
            for rung in rungs
        ]
    return rungs


KIND = RungKind("served model", is_address, served_models, "engine.extensions.served.serving")
