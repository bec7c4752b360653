"""Read the per-message loss weights of other tools' data."""

from __future__ import annotations

import math
from typing import Any

from engine.config.errors import UserError
from engine.data.row_limits import RawRow

WEIGHTS = ("weight", "loss_weight", "loss_scale", "train", "training", "trainable", "loss")
"""Keys with a number ≥ 0 or a boolean: OpenAI, LLaMA-Factory v1, ms-swift, axolotl."""
MASKED = ("masked",)
"""Keys where true excludes the message from the loss: torchtune."""
REFUSED = {
    "mask": "use weight instead (0 excludes a message from the loss): tools disagree on the meaning of this key",
    "loss_mask": "use weight instead (0 excludes a message from the loss): tools disagree on the meaning of this key",
    "train_detail": "use weight for the complete message: weights of single characters are not supported",
    "training_detail": "use weight for the complete message: weights of single characters are not supported",
}
FLAGS = frozenset((*WEIGHTS, *MASKED, *REFUSED))


def weight_of(turn: dict[str, Any], role: str, number: int, raw: RawRow) -> float:
    """The product of a message's weights; 1 without any.

    Raises UserError for invalid or unsupported keys, and for a weight > 0 on a message that is not an answer.
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
            what = f"message {number} ({role}) has {key} = {value}, but only assistant messages can be in the loss"
            do = f"set {key} of system, user and tool messages to 0 or remove it"
            raise UserError(what, raw.where, do, code="data.loss_flag_on_prompt")
    return weight


def _number(value: Any, key: str, number: int, raw: RawRow) -> float:
    if isinstance(value, int | float) and 0 <= value < math.inf:
        return float(value)
    what = f"invalid {key} {value!r} in message {number}"
    do = "use a number of at least 0, or true or false"
    raise UserError(what, raw.where, do, code="data.invalid_weight")
