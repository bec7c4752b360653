"""The defaults that belong to one method.

Comparing methods at one shared learning rate is the classic unfair comparison: a low-rank update wants about
ten times the rate of a full one ("LoRA Without Regret", Thinking Machines 2025, and tinker-cookbook's
`get_lora_lr_over_full_finetune_lr`). The values are the ones the field has settled on:

- qlora: 2e-4, gradient norm clipped at 0.3, paged 8-bit AdamW, NF4 with double quantization (Dettmers et al.
  2023, arXiv:2305.14314, Table 9 and Appendix B). Take 1e-4 above 13B parameters, as the paper does.
- lora: 2e-4, rank 16, alpha 32, every linear layer, clipping at 1.0 (PEFT and Unsloth defaults agree; rank and
  targets as in "LoRA Without Regret").
- full: 2e-5, clipping at 1.0 (Llama 2 paper, section 3.1: 2e-5 with cosine decay). 8-bit AdamW's state lets
  an 8B model's full fine-tuning fit on 80 GB. Where there is no card there is no paging, and the worker says so.
"""

from __future__ import annotations

from typing import Any

from engine.config.schema import Method

BY_METHOD: dict[Method, dict[str, Any]] = {
    "qlora": {"train.learning_rate": 2e-4, "train.max_grad_norm": 0.3, "optimizer.name": "paged_adamw_8bit"},
    "lora": {"train.learning_rate": 2e-4, "train.max_grad_norm": 1.0, "optimizer.name": "adamw"},
    "full": {"train.learning_rate": 2e-5, "train.max_grad_norm": 1.0, "optimizer.name": "paged_adamw_8bit"},
}
