"""FlashAttention is used only with bf16 weights and architectures that support it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM

from engine.assets import tiny_folder
from engine.config import schema
from engine.config.errors import UserError
from engine.methods.loading import attention, load_pretrained
from engine.methods.machine import Machine

FLASH = Machine("cpu", "FlashAttention is installed, as far as one looks", bf16=True, flash_attention=True)


@pytest.mark.parametrize(
    ("dtype", "taken"), [(torch.bfloat16, "flash_attention_2"), (torch.float32, None)], ids=["bf16", "float32"]
)
def test_float32_weights_do_not_use_flash_attention(dtype: torch.dtype, taken: str | None) -> None:
    assert attention(schema.Model(), FLASH, dtype) == taken


@pytest.fixture
def bloom(tmp_path: Path) -> str:
    """An architecture without FlashAttention."""
    BloomForCausalLM(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    shutil.copy(tiny_folder() / "tokenizer.json", tmp_path)
    return str(tmp_path)


def test_an_architecture_without_flash_attention_loads_without_it(bloom: str) -> None:
    model = load_pretrained(schema.Model(id=bloom), FLASH, torch.bfloat16)
    assert model.config._attn_implementation in ("sdpa", "eager")


def test_configured_flash_attention_is_not_replaced(bloom: str) -> None:
    with pytest.raises(UserError, match="Flash"):
        load_pretrained(schema.Model(id=bloom, attention="flash_attention_2"), FLASH, torch.bfloat16)
