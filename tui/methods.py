"""The three methods in words: names, what each trains, why one would choose it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.config.schema import Method

NAMES: dict[Method, str] = {"qlora": "QLoRA", "lora": "LoRA", "full": "Full"}
TRAINS: dict[Method, str] = {
    "qlora": "adapters, 4-bit base",
    "lora": "adapters, whole base",
    "full": "every weight",
}
WHY: dict[Method, str] = {
    "qlora": "least memory: to prototype",
    "lora": "quick, small: to ship",
    "full": "where the last point counts",
}
LONG_WHY: dict[Method, str] = {
    "qlora": "The base lies frozen in 4 bits, so the largest models fit. Steps take longer than LoRA's: weights are "
    "unpacked as they are used. For prototypes, and where nothing else fits.",
    "lora": "The base lies frozen in full precision; small matrices beside its layers learn. Nearly the quality of "
    "full fine-tuning on most work, quick, and a few MiB to keep. What one usually ships.",
    "full": "Every weight learns, with a gradient and the optimizer's state for each: several times the memory, and a "
    "whole model to keep. Where much has to be learnt, or the last point counts.",
}
MARK = "▸"
"""Before the one that is chosen."""


def named(method: str) -> Method:
    """The method of this name."""
    return next(one for one in NAMES if one == method)


def following(method: Method) -> Method:
    """The next one, as the list has them."""
    methods = list(NAMES)
    return methods[(methods.index(method) + 1) % len(methods)]
