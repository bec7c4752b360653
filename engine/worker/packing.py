"""Choose how a run packs its rows, and check on its own rows that the model computes the same loss."""

from __future__ import annotations

import torch

from engine.data.tokens import Row
from engine.training import varlen_attention
from engine.training.batches import BatchSampler, Sharing, choose_packing, decide_sharing, drops_out
from engine.training.collation import Packing
from engine.training.guards import first_line, is_out_of_memory
from engine.training.loss import packing_agreement, supports_logits_to_keep
from engine.training.sharding import class_name
from engine.worker.evaluator import Evaluator
from engine.worker.run_context import RunContext

CHECKED_ROWS = 4
"""Rows whose losses are compared."""


def decide_packing(run: RunContext, model: torch.nn.Module, evaluator: Evaluator, pad: int) -> Packing:
    """The configured or automatic packing. If the model computes other losses with it than for single rows, which a
    forward pass checks, a simpler one is used, with a warning.

    Also switches the model to attention over segments if the packing has them, and sets `run.sharing`.
    """
    if not supports_logits_to_keep(model):
        text = f"{class_name(model)} does not support logits_to_keep: the LM head runs at every position, slower"
        run.warn("model.no_logits_to_keep", text)
    train, device, rows = run.config.train, run.machine.device, evaluator.rows.train
    sampler = BatchSampler.of(len(rows), train.batch, train.epochs, train.steps, train.seed)
    flash = model.config.get_text_config()._attn_implementation == "flash_attention_2"
    longest = max([int(rows.lengths.max()), *(len(row.input_ids) for row in evaluator.loss_rows)])
    reason = varlen_attention.unsupported_reason(model, longest)
    packing = choose_packing(rows, train.packing, device, flash or not reason, segments=not reason)
    packing, run.sharing = decide_sharing(packing, rows, sampler, run.config)
    _explain(run, packing, run.sharing, reason)
    if packing.segments:
        varlen_attention.enable(model)
    checked = sorted((rows[index] for index in sampler.indices(0)), key=lambda row: len(row.input_ids))[:CHECKED_ROWS]
    if packing.mode == "padded" or _agrees(run, model, checked, packing, pad):
        return packing
    plain = choose_packing(rows, "packed", device, flash)
    if packing.segments and _agrees(run, model, checked, plain, pad):
        return plain
    return choose_packing(rows, "padded", device, varlen=False)


def _explain(run: RunContext, packing: Packing, sharing: Sharing, reason: str) -> None:
    """Warn if shared prefixes are configured but unsupported, or would be worthwhile but are off."""
    setting = run.config.train.packing
    if packing.mode == "shared_prefix":
        return
    if setting == "shared_prefix":
        run.warn("train.no_shared_prefix", f"{reason}: rows are packed without sharing prefixes")
    elif setting == "auto" and sharing.worthwhile and drops_out(run.config):
        text = (
            f"shared prefixes are off because of adapter.dropout, which would be the same for all rows of a prefix; "
            f'train.packing = "shared_prefix" turns them on, to compute {100 / sharing.ratio:.0f}% of the tokens'
        )
        run.warn("train.shared_prefix_off", text)


def _agrees(run: RunContext, model: torch.nn.Module, rows: list[Row], packing: Packing, pad: int) -> bool:
    """Whether the losses of rows are the same packed and alone; warns if not, or if a kernel does not support them."""
    try:
        agreement = packing_agreement(model, rows, packing, pad, run.machine.device, supports_logits_to_keep(model))
    except (RuntimeError, ValueError) as error:  # such as a head size that a GPU's kernel does not support
        if is_out_of_memory(error):
            raise
        why = f"cannot compute packed rows ({first_line(error)})"
    else:
        if agreement.same:
            return True
        losses = f"loss {agreement.packed:.4f} packed, {agreement.single:.4f} separate"
        why = f"does not keep packed rows separate ({losses})"
    run.warn("model.packing_unsupported", f"{class_name(model)} {why}: using a simpler packing")
    return False
