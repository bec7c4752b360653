"""Print by how much losses and gradients of packed rows differ from padded ones: by rounding, and with a fault.

    python tests/bench/packed_rounding.py [--model DIR] [--method lora] [--fp32] [--seeds 6]

For each seed (other rows and adapters) a few steps are trained as by `ftbench doctor --train`, followed by the packed
loss check, with the rows as they are and with these faults: every row attends to all rows before it; the second row
attends to the first; every row attends to the last token of the row before it; the second half of every row is one
position late. Columns: difference of the losses in nats/token and relative difference of the gradients, and each as a
multiple of its limit. A fault is found if one of the two is above 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from engine.config.preset import with_settings
from engine.data.prepare import prepare
from engine.methods.machine import this_machine
from engine.methods.tokenizer import load_tokenizer
from engine.training import collation, varlen_attention
from engine.training.segments import Segments
from engine.worker.training_checks import packed_loss
from engine.worker.training_checks.agreement import Agreement
from engine.worker.training_checks.subjects import EMBEDDED_ROWS, Subject, embedded_subject
from engine.worker.training_checks.training_session import TrainingSession


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of another model with the same chat template")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument("--seeds", type=int, default=6)
    options = parser.parse_args()
    machine = replace(this_machine(), bf16=not options.fp32)
    print(f"{'seed':5}{'case':20}{'loss':>10}{'of limit':>10}{'gradient':>10}{'of limit':>10}")
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            session = TrainingSession(subject(options, seed), machine, Path(folder))
            session.train()
            for case, fault in CASES.items():
                with fault():
                    found = agreements(session)
                numbers = [number for one in found for number in (one.difference, one.difference / one.limit)]
                print(f"{seed:<5}{case:20}" + "".join(f"{number:10.2g}" for number in numbers), flush=True)


def subject(options: argparse.Namespace, seed: int) -> Subject:
    """The check's subject with the seed's rows."""
    found = embedded_subject(options.method)
    precision = "fp32" if options.fp32 else "bf16"
    changes: dict[str, Any] = {"train.seed": seed, "train.precision": precision}
    if options.model:
        changes["model.id"] = str(options.model)
    config = with_settings(found.config, changes)
    tokenizer = load_tokenizer(config.model)
    rows = prepare(config.data, config.train.max_length, tokenizer).train
    own = [rows[seed * EMBEDDED_ROWS + number] for number in range(EMBEDDED_ROWS)]
    return replace(found, config=config, rows=own, tokenizer=tokenizer, pad=int(tokenizer.pad_token_id))


def agreements(session: TrainingSession) -> list[Agreement]:
    """Of the losses and the gradients in the packed loss check."""
    found: list[Agreement] = []

    def kept(agree: Callable[..., Agreement]) -> Callable[..., Agreement]:
        return lambda *arguments: found.append(agree(*arguments)) or found[-1]

    stand_ins: dict[str, Any] = {name: kept(getattr(packed_loss, name)) for name in ("losses_agree", "gradients_agree")}
    with patch.multiple(packed_loss, **stand_ins):
        packed_loss.check_packed_loss(session)
    return found


def attention(reached: Callable[[Segments, torch.Tensor], None]) -> Any:
    """Packed rows with attention to what `reached` adds to the mask (queries, keys)."""

    def attend(query: Any, key: Any, value: Any, segments: Segments, scale: float) -> torch.Tensor:
        mask = segments.mask(query.device)[0, 0].clone()
        reached(segments, mask)
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask.tril()[None, None], scale=scale, enable_gqa=True
        )

    return patch.object(varlen_attention, "SegmentAttention", SimpleNamespace(apply=attend))


def all_rows(segments: Segments, mask: torch.Tensor) -> None:
    mask[:] = True


def second_row(segments: Segments, mask: torch.Tensor) -> None:
    first, second = segments.segments[:2]
    mask[second.start : second.end, first.start : first.end] = True


def one_token(segments: Segments, mask: torch.Tensor) -> None:
    for before, row in pairwise(segments.segments):
        mask[row.start : row.end, before.end - 1] = True


@contextmanager
def late_positions() -> Iterator[None]:
    """The second half of each packed row is one position late."""
    original = collation._one_sequence

    def one_sequence(*arguments: Any) -> collation.MicroBatch:
        batch = original(*arguments)
        for start, end, _ in batch.model_inputs["segments"].segments:
            batch.model_inputs["position_ids"][0, (start + end) // 2 : end] += 1
        return batch

    with patch.object(collation, "_one_sequence", one_sequence):
        yield


CASES: dict[str, Callable[[], Any]] = {
    "no fault": nullcontext,
    "all rows": lambda: attention(all_rows),
    "second to first row": lambda: attention(second_row),
    "last token of a row": lambda: attention(one_token),
    "late positions": late_positions,
}

if __name__ == "__main__":
    main()
