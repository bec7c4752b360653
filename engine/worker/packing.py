"""Choose how a run packs its rows, and check on its own model and rows that they stay independent."""

from __future__ import annotations

import torch

from engine.config.batch_limits import mixing_reason, row_separation
from engine.config.errors import UserError
from engine.data.rows import Row
from engine.evaluation.forward import within_memory
from engine.training import varlen_attention
from engine.training.batches import BatchSampler, Packing, Sharing, choose_packing, decide_sharing, has_adapter_dropout
from engine.training.guards import first_line, is_out_of_memory
from engine.training.loss import supports_logits_to_keep
from engine.training.row_independence import CHECKED_ROWS, ONE_ROW, rows_are_independent
from engine.training.sharding import class_name
from engine.worker.evaluator import Evaluator
from engine.worker.run_context import RunContext


def decide_packing(run: RunContext, model: torch.nn.Module, evaluator: Evaluator, pad: int) -> Packing:
    """The configured or automatic packing, if rows are independent with it; otherwise, with a warning, the first of
    packing by position ids, padding and one row at a time with which they are.

    Also switches the model to attention over segments if the packing has them, and sets `run.sharing`. Raises
    UserError if not even a row alone is independent of the padding after its end.
    """
    if not supports_logits_to_keep(model):
        text = f"{class_name(model)} does not support logits_to_keep: the LM head runs at every position, slower"
        run.warn("model.no_logits_to_keep", text)
    train, device, rows = run.config.train, run.machine.device, evaluator.rows.train
    sampler = BatchSampler.of(len(rows), train.batch, train.epochs, train.steps, train.seed)
    flash = model.config.get_text_config()._attn_implementation == "flash_attention_2"
    longest = max([int(rows.lengths.max()), *(len(row.input_ids) for row in evaluator.loss_rows)])
    reason = varlen_attention.unsupported_reason(model, longest)
    mixed = mixing_reason(model.config.to_dict())
    packing = choose_packing(rows, train.packing, device, flash or not reason, segments=not reason, mixed=bool(mixed))
    packing, run.sharing = decide_sharing(packing, rows, sampler, run.config)
    _explain(run, class_name(model), packing, run.sharing, reason, mixed)
    if packing.segments:
        varlen_attention.enable(model)
    checked = sorted((rows[index] for index in sampler.indices(0)), key=lambda row: len(row.input_ids))[:CHECKED_ROWS]
    simpler = [] if mixed else [choose_packing(rows, "packed", device, flash)] * packing.segments
    padded = choose_packing(rows, "padded", device, varlen=False)
    known = row_separation(model.config.to_dict()) == "separate"
    candidates = [packing, *simpler, padded] if packing.one_sequence else [padded]
    for candidate in candidates:
        if (candidate == padded and known) or _is_independent(run, model, checked, candidate, pad):
            return candidate
    if _is_independent(run, model, checked[:1], ONE_ROW, pad):
        return ONE_ROW
    what = f"{class_name(model)} lets a row depend on the padding after its end"
    do = "choose a causal language model of an architecture in docs/models.md"
    raise UserError(what, run.config.model.id, do, code="model.rows_influence_each_other")


def _explain(
    run: RunContext, architecture: str, packing: Packing, sharing: Sharing, no_segments: str, mixed: str
) -> None:
    """Warn if rows are padded though packing is configured or faster, and if shared prefixes are configured but
    unsupported, or would be worthwhile but are off.
    """
    setting = run.config.train.packing
    if packing.mode == "shared_prefix" or setting == "padded":
        return
    if mixed and packing.mode == "padded":
        text = f"rows are padded, not packed: {architecture} would let them influence each other, because {mixed}"
        run.warn("model.packing_unsupported", text)
    elif setting == "shared_prefix":
        run.warn("train.no_shared_prefix", f"{no_segments}: rows are packed without sharing prefixes")
    elif setting == "auto" and sharing.worthwhile and has_adapter_dropout(run.config):
        text = (
            f"shared prefixes are off because of adapter.dropout, which would be the same for all rows of a prefix; "
            f'train.packing = "shared_prefix" turns them on, to compute {100 / sharing.ratio:.0f}% of the tokens'
        )
        run.warn("train.shared_prefix_off", text)


def _is_independent(run: RunContext, model: torch.nn.Module, rows: list[Row], packing: Packing, pad: int) -> bool:
    """Whether rows are independent with this packing, on all ranks; warns if not, or if a kernel cannot compute it."""
    device = run.machine.device
    try:
        checked = within_memory(lambda: rows_are_independent(model, rows, packing, pad, device))
        why = (checked or rows_are_independent(model, rows[:2], packing, pad, device)).reason
    except (RuntimeError, ValueError) as error:  # such as a head size that a GPU's kernel does not support
        if is_out_of_memory(error):
            raise
        why = f"it cannot be computed ({first_line(error)})"
    if why:
        how = "one row at a time" if packing.tokens == 1 else packing.mode.replace("_", " ")
        run.warn("model.packing_unsupported", f"{class_name(model)}, {how}: {why}; using a simpler packing")
    return not run.ranks.any(bool(why))
