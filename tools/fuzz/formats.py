"""The formats of generated rows, by what a file must be able to represent."""

from __future__ import annotations

from fuzz.columns import alpaca, answer_lists, array_pairs, labels, mapped, pairs, plain, separated, squad
from fuzz.conversations import (
    array_turns,
    message_parts,
    messages,
    sharegpt,
    sharegpt_calls,
    tool_calls,
    turn_pairs,
    weighted,
)
from fuzz.preferences import chosen, desirable, kto, preference

FLAT = {"alpaca": alpaca, "pairs": pairs, "labels": labels, "plain": plain, "separated": separated, "mapped": mapped}
"""Formats whose values are texts."""
AS_TEXT = {"messages": messages, "weighted": weighted, "tool_calls": tool_calls, "sharegpt": sharegpt,
           "sharegpt_calls": sharegpt_calls}  # fmt: skip
"""Formats whose values a table may hold as JSON text."""
NESTED = {"message_parts": message_parts, "turn_pairs": turn_pairs, "squad": squad, "answer_lists": answer_lists,
          "desirable": desirable, "chosen": chosen}  # fmt: skip
"""Formats that need lists and objects."""
ARRAYS = {"array_pairs": array_pairs, "array_turns": array_turns}
REFUSED = {"preference": preference, "kto": kto}
