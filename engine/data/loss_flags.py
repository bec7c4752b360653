"""Per-message flags that say how much a message counts in the loss, as other tools write them."""

from __future__ import annotations

import math
from typing import Any

from engine.config.errors import UserError
from engine.data.row_limits import Raw

WEIGHTS = ("weight", "loss_weight", "loss_scale", "train", "training", "trainable", "loss")
"""A number of at least 0, or true or false: OpenAI, LLaMA-Factory v1, ms-swift, axolotl."""
MASKED = ("masked",)
"""True leaves the message out of the loss: torchtune."""
REFUSED = {
    "mask": "its meaning differs between tools: use weight instead (0 leaves a message out of the loss)",
    "loss_mask": "its meaning differs between tools: use weight instead (0 leaves a message out of the loss)",
    "train_detail": "weights of single characters are not supported: use weight for the whole message",
    "training_detail": "weights of single characters are not supported: use weight for the whole message",
}
FLAGS = frozenset((*WEIGHTS, *MASKED, *REFUSED))


def weight_of(turn: dict[str, Any], role: str, number: int, raw: Raw) -> float:
    """The product of a message's flags; 1 where it has none.

    UserError for flags that are invalid, not supported, or ask to train on a message that is no answer.
    """
    if len(turn) <= 2 or FLAGS.isdisjoint(turn):
        return 1.0
    weight = 1.0
    for key in FLAGS.intersection(turn):
        value = turn[key]
        if value is None or value == []:
            continue
        if key in REFUSED:
            raise UserError(
                f"unsupported key {key!r} in message {number}", raw.where, REFUSED[key], code="data.loss_flag"
            )
        factor = _number(value, key, number, raw)
        weight *= float(not factor) if key in MASKED else factor
        if role != "assistant" and key in WEIGHTS and factor > 0:
            what = f"message {number} ({role}) has {key} = {value}, and only assistant messages are trained on"
            do = f"set {key} of system, user and tool messages to 0 or remove it"
            raise UserError(what, raw.where, do, code="data.loss_flag_on_prompt")
    return weight


def _number(value: Any, key: str, number: int, raw: Raw) -> float:
    if isinstance(value, int | float) and 0 <= value < math.inf:
        return float(value)
    what = f"invalid {key} {value!r} in message {number}"
    do = "use a number of at least 0, or true or false"
    raise UserError(what, raw.where, do, code="data.invalid_weight")
