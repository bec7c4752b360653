"""Limits on the size of a forward pass, for the code that builds batches and the code that predicts memory.

The tables are by device: `cpu` and `cuda`.
"""

from __future__ import annotations

from typing import Literal

PackingMode = Literal["packed", "shared_prefix", "padded"]
"""How the rows of a micro-batch are combined (`train.packing`)."""

PACKED_MEAN_LENGTH = 256
"""Tokens. With a dense attention mask, rows longer than this on average are padded instead of packed."""
MAX_MASKED_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Maximum tokens of a packed micro-batch under a dense mask, whose cost grows with their square."""
MAX_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Maximum tokens of every other micro-batch, also of a configured size; a longer row is alone in one."""
SHAPE_MULTIPLE = {"cpu": 64, "cuda": 1}
"""The length of a micro-batch and the number of positions at which its head runs are padded to multiples of this. On a
CPU, oneDNN compiles and caches a kernel for each new shape of a bf16 matrix product, so the resident set grows with
every step; with few shapes it stays constant (`tests/bench/RESULTS.md`)."""

HELD_OUT_ROWS = 64
"""Rows of a forward pass without gradients."""
HELD_OUT_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass without gradients; enough to keep a GPU busy."""
HELD_OUT_LOGITS = 1 << 28
"""Logits of a forward pass without gradients: 0.5 GiB in bf16. With a limit on tokens alone they could take 3.9 GiB
at a vocabulary of 128k."""
CHUNK_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 25}
"""Logits computed at a time: in float32 32 and 128 MiB for any vocabulary, with their bf16 copy 48 and 192 MiB. On a
GPU a chunk has to be long enough that multiplying takes longer than reading the head's weight: 261 rows of a vocabulary
of 128k."""

REFILL_FRACTION = 4
"""During generation, waiting prompts are prefilled when one in this many rows of the batch is free: prefilling them one
by one would cost more than idle rows."""
SPARE_CACHE_COLUMNS = 64
"""Columns of the KV cache allocated ahead of the latest token, so that it is copied once per this many tokens."""
MAX_DRAFT_TOKENS = 8
"""Tokens that n-gram speculation proposes at a time."""
MAX_CHOICES_PER_PROMPT = 4
"""Answers that a forward pass of choice scoring scores for each prompt of a batch, on average."""
MAX_CHOICE_TOKENS = 2048
"""Tokens of a forward pass of choice scoring: a row of logits is as wide as the vocabulary."""
