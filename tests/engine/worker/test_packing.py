"""The packing of a run: shared prefixes where they save tokens, and reasons where they are not used."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from command import ON_SMALL, events_of, only_run
from forked import ftbench
from model_shapes import MIXED_SHAPES, SHAPES, SMALL, VOCABULARY
from tiny_configs import family_config

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.model_config import row_separation
from engine.config.schema import Config, Model, Train
from engine.data.prepare import prepare
from engine.data.rows import Row
from engine.memory.dry_run.plan import with_packing
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.memory.formula.method_plan import packing_notes
from engine.methods import method
from engine.methods.machine import Machine, this_machine
from engine.methods.model_source import load_tokenizer
from engine.training import varlen_attention
from engine.training.batches import Packing, collate, loss_weight, micro_batches
from engine.training.loss import summed_loss, supports_logits_to_keep
from engine.training.ranks import SINGLE_RANK
from engine.training.row_independence import ONE_ROW
from engine.worker.planning import decide_packing

CPU = Machine("cpu", "a CPU", bf16=False, flash_attention=False)
FLASH = Machine("cuda", "a GPU", bf16=True, flash_attention=True)
SHORT = (
    *("--set", "train.steps=2", "--set", "train.evaluate_every=2", "--set", "data.validation=0.005"),
    *("--set", "evaluation.when=never", "--set", "train.probe=false"),
)


def run_of(folder: Path, preset: str, *settings: str) -> list[dict[str, Any]]:
    """The events of a short run."""
    more = [part for setting in settings for part in ("--set", setting)]
    done = ftbench("run", preset, *ON_SMALL, *SHORT, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return events_of(only_run(folder))


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def decided(config: Config, model: torch.nn.Module, rows: Sequence[Row], warned: list[str]) -> Packing:
    """The packing that a run decides on; collects its warnings."""
    packing, _ = decide_packing(
        config, model, rows, [], 0, this_machine(), SINGLE_RANK, lambda code, text: warned.append(f"{code}: {text}")
    )
    return packing


def test_a_common_system_prompt_is_computed_once(tmp_path: Path) -> None:
    events = run_of(tmp_path, "demo-schema")
    plan = of_type(events, "plan")[-1]
    assert plan["packing"] == "shared_prefix" and plan["shared_prefix"] >= 60 and plan["shared_rows"] == 1592
    for step in of_type(events, "step"):
        assert step["tokens"] / step["computed_tokens"] == pytest.approx(plan["token_ratio"], rel=0.15)
    assert of_type(events, "warning") == []


@pytest.mark.parametrize(
    ("settings", "packing", "code"),
    [
        (["adapter.dropout=0.1"], "packed", "train.shared_prefix_off"),
        (["adapter.dropout=0.1", "train.packing=shared_prefix"], "shared_prefix", ""),
        (["model.attention=eager", "train.packing=shared_prefix"], "packed", "train.no_shared_prefix"),
    ],
)
def test_where_prefixes_are_not_shared_the_reason_is_a_warning(
    settings: list[str], packing: str, code: str, tmp_path: Path
) -> None:
    events = run_of(tmp_path, "demo-schema", "data.max_rows=200", "train.batch=4", *settings)
    assert of_type(events, "plan")[-1]["packing"] == packing
    assert [event["code"] for event in of_type(events, "warning")] == [code] * bool(code)


def test_the_formula_counts_the_tokens_of_the_packing_that_was_chosen() -> None:
    shape, rows = CATALOG["smollm2-135m"].shape, StepShape(count=8, length=500, answer=20, shared=430)
    config, chosen = Config(method="lora"), Packing("shared_prefix", 2048, True)
    shared = with_packing(config, CPU, chosen)
    peaks = [formula(configuration, shape, "cpu", rows).training.total for configuration in (config, shared)]
    assert shared.train.packing == "shared_prefix" and peaks[1] < 0.8 * peaks[0]
    assert with_packing(config, FLASH, Packing("packed", 2048)).train.packing == "auto"


def test_a_kernel_that_does_not_support_the_model_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a GPU's kernel, the CPU's raises."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("head size 20 is not supported")

    warned: list[str] = []
    config = Config(train=Train(batch=4))
    base = method("lora").load(config, this_machine())
    rows = prepare(config.data, config.train.max_length, load_tokenizer(config.model))
    monkeypatch.setattr(varlen_attention, "_forward", refuse)
    chosen = decided(config, base, rows.train, warned)
    assert (chosen.mode, chosen.segments) == ("packed", False)
    assert len(warned) == 1 and warned[0].startswith("model.packing_unsupported") and "head size 20" in warned[0]


class Rows(list[Row]):
    """Rows in memory, with their lengths."""

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row.input_ids) for row in self])


def short_rows(count: int = 12) -> Rows:
    """Rows of 6 to 40 tokens with answers of 3 and more."""
    pick = random.Random(0)
    rows = Rows()
    for _ in range(count):
        ids = pick.choices(range(3, VOCABULARY), k=pick.randint(6, 40))
        rows.append(Row(ids, [-100, -100, -100, *ids[3:]], ids[:3], "", "here", False))
    return rows


def chosen_packing(model: torch.nn.Module, rows: Rows, warned: list[str], setting: str = "auto") -> Packing:
    config = Config(train=Train(batch=4, packing=setting))
    return decided(config, model, rows, warned)


def trained(model: torch.nn.Module, rows: Rows, packing: Packing) -> tuple[list[float], torch.Tensor]:
    """Losses and the gradients of the last of three steps of 4 rows."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for start in (0, 4, 8):
        step = rows[start : start + 4]
        weight = sum(map(loss_weight, step))
        optimizer.zero_grad()
        losses.append(0.0)
        for group in micro_batches(step, 4, packing):
            loss = summed_loss(model, collate(group, packing, 0, "cpu"), supports_logits_to_keep(model)) / weight
            loss.backward()
            losses[-1] += float(loss.detach())
        optimizer.step()
    return losses, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("setting", ["auto", "packed"])
@pytest.mark.parametrize("shape", [*MIXED_SHAPES, "llama", "gemma3"])
def test_the_chosen_packing_trains_as_one_row_at_a_time_does(shape: str, setting: str) -> None:
    """For every mechanism by which packed rows would influence each other, and whatever is configured."""
    shapes, rows = {**SHAPES, **MIXED_SHAPES}, short_rows()
    warned: list[str] = []

    def fresh() -> torch.nn.Module:
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(shapes[shape], dtype=torch.float32).train()

    model = fresh()
    packing = chosen_packing(model, rows, warned, setting)
    losses, gradients = trained(model, rows, packing)
    expected, expected_gradients = trained(fresh(), rows, ONE_ROW)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert float((gradients - expected_gradients).norm() / expected_gradients.norm()) < 1e-4
    padded = packing.mode == "padded"
    assert padded == (row_separation(shapes[shape].to_dict()) == "mixed")
    assert [text.split(":")[0] for text in warned] == ["model.packing_unsupported"] * padded


class LeakyConfig(transformers.LlamaConfig):
    """An architecture that nothing is known about."""

    model_type = "leaky"


class Leaky(transformers.LlamaForCausalLM):
    """Adds to each token a little of the token before it, also of another row; optionally of padding."""

    config_class = LeakyConfig
    masks_padding = True

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, logits_to_keep: Any = 0, **options: Any
    ) -> Any:
        embeddings = self.model.embed_tokens(input_ids)
        kept = embeddings
        if self.masks_padding and attention_mask is not None and attention_mask.dim() == 2:
            kept = embeddings * attention_mask[..., None]
        before = torch.nn.functional.pad(kept, (0, 0, 1, 0))[:, :-1]
        options |= {"attention_mask": attention_mask, "logits_to_keep": logits_to_keep}
        return super().forward(inputs_embeds=embeddings + 1e-3 * before, **options)


@pytest.mark.parametrize(("masks_padding", "expected"), [(True, "padded"), (False, "one row")])
def test_an_unknown_architecture_that_mixes_rows_is_not_packed(
    masks_padding: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leaky, "masks_padding", masks_padding)
    torch.manual_seed(0)
    model = Leaky(LeakyConfig(**{**SMALL, "num_hidden_layers": 2}))
    warned: list[str] = []
    packing = chosen_packing(model, short_rows(), warned)
    assert (packing == ONE_ROW) == (expected == "one row") and (packing.mode == "padded") == (expected == "padded")
    assert warned and all(text.startswith("model.packing_unsupported") for text in warned)


def test_a_model_with_other_positions_than_tokens_is_refused() -> None:
    """CPM-Ant puts tokens of its own before a row: its losses would be those of other tokens."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(family_config("cpmant", VOCABULARY))
    with pytest.raises(UserError) as refused:
        chosen_packing(model, short_rows(), [])
    assert refused.value.code == "model.rows_influence_each_other"


def test_the_plan_says_which_rows_are_padded_and_why() -> None:
    config = Config()
    eager = Config(model=Model(attention="eager"))
    for shape, model in MIXED_SHAPES.items():
        separation = row_separation(model.to_dict())
        assert separation == ("mixed" if shape in ("masks without positions", "alibi", "state space") else "segments")
        assert row_separation({"model_type": "wrapper", "text_config": model.to_dict()}) == separation
        assert len(packing_notes(config, model.to_dict())) == (separation == "mixed")
        assert len(packing_notes(eager, model.to_dict())) == 1
    assert packing_notes(config, SHAPES["llama"].to_dict()) == []
    assert len(packing_notes(config, SHAPES["gemma3"].to_dict(), not_shared="it has a sliding window")) == 1
    assert len(packing_notes(config, {"model_type": "leaky"})) == 1
    assert packing_notes(Config(train=Train(packing="padded")), {"model_type": "leaky"}) == []
    assert row_separation({"model_type": "new", "layer_types": ["full_attention", "conv"]}) == "mixed"
    assert row_separation({"model_type": "new", "layer_types": ["indexed_attention", "mlp"]}) == "unknown"
    (note,) = packing_notes(config, {"model_type": "new", "layer_types": ["full_attention", "folded"]})
    assert "folded" in note


@pytest.mark.parametrize("setting", ["auto", "packed", "shared_prefix"])
def test_the_formula_pads_rows_that_would_mix(setting: str) -> None:
    rows = StepShape(count=8, length=100, answer=20, shared=50)
    config = Config(method="lora", train=Train(packing=setting, batch=8, micro_batch=8))
    assert formula(config, MIXED_SHAPES["masks without positions"].to_dict(), "cpu", rows).packing == "padded"
    assert formula(config, MIXED_SHAPES["linear attention"].to_dict(), "cpu", rows).packing != "padded"
