"""Any combination of split sizes either trains or is refused with a reason: never a crash after a clean check."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from engine.config.errors import UserError
from engine.config.schema import Config, Data, Evaluation, Model
from engine.data.check import check
from engine.data.items import sampled, sampled_by_rows
from engine.data.prepare import prepare
from engine.memory.dry_run.plan import DataWorkload
from engine.methods.machine import this_machine
from engine.methods.model_source import load_tokenizer
from engine.runs.ladder.ladder_plan import make_plan
from engine.training.batches import BatchSampler, choose_packing, decide_sharing

LENGTH = 64
CONTENTS = {
    "distinct": lambda n: {"prompt": f"ask {n}", "completion": f"say {n}"},
    "identical": lambda n: {"prompt": "ask", "completion": "say"},
    "one prompt": lambda n: {"prompt": "ask", "completion": f"say {n}"},
    "texts": lambda n: {"text": f"text number {n}"},
}
TRAIN = (1, 2, 40)
HELD_OUT: tuple[Any, ...] = (None, 0.0, 0.05, 0.99, "1 row", "2 rows", "40 rows", "all bad")
"""Settings of a split: the default, shares, and files with this many rows."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return load_tokenizer(Model())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    for kind, made in CONTENTS.items():
        for count in TRAIN:
            write(folder / f"{kind} {count}.jsonl", [made(n) for n in range(count)])
        for split, (count, words) in product((0, 100), ((1, "1 row"), (2, "2 rows"), (40, "40 rows"))):
            write(folder / f"{kind} {split} {words}.jsonl", [made(split + n) for n in range(count)])
        for split in (0, 100):
            bad = [{**made(n), list(made(n))[-1]: " "} for n in range(3)]
            write(folder / f"{kind} {split} all bad.jsonl", bad)
    return folder


def write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def data(files: Path, kind: str, count: int, validation: Any, test: Any) -> Data:
    """`validation` shares rows with training; `test` does not if contents are distinct."""
    named = {"validation": (validation, 0), "test": (test, 100)}
    wishes = {
        name: str(files / f"{kind} {start} {wish}.jsonl") if isinstance(wish, str) else wish
        for name, (wish, start) in named.items()
        if wish is not None
    }
    return Data(id=str(files / f"{kind} {count}.jsonl"), **wishes)


@pytest.mark.parametrize("validation", HELD_OUT)
@pytest.mark.parametrize("kind", CONTENTS)
def test_every_combination_trains_or_is_refused(
    files: Path, tokenizer: PreTrainedTokenizerBase, kind: str, validation: Any
) -> None:
    for count, test in product(TRAIN, HELD_OUT):
        wish = data(files, kind, count, validation, test)
        report, refusal = checked(wish, tokenizer)
        assert bool(refusal) == ("all bad" in (validation, test))
        if refusal:
            with pytest.raises(UserError) as caught:
                prepare(wish, LENGTH, tokenizer)
            assert caught.value.line == refusal
        else:
            assert_trains(wish, report, tokenizer)


def checked(wish: Data, tokenizer: PreTrainedTokenizerBase) -> tuple[dict[str, Any], str]:
    """The report and the reason for refusal; no report if the format is unknown."""
    try:
        report = check(wish, LENGTH, tokenizer)
    except UserError as error:
        return {}, error.line
    return report, report["refused"] or ""


def assert_trains(wish: Data, report: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    made = prepare(wish, LENGTH, tokenizer)
    rows, codes = report["rows"], [warning["code"] for warning in report["warnings"]]
    assert rows["train"] >= 1
    usage = report["data_usage"]
    left_out = sum(reason["rows"] for reason in usage["left_out"].values())
    assert usage["read"] == sum(rows.values()) + left_out
    assert (rows["test"] == 0) == ("data.no_test_rows" in codes)
    for pair, overlap in report["overlap"].items():
        held_out = not isinstance(getattr(wish, pair.split("/")[0]), str)
        assert overlap["of"] >= 1 and not (held_out and overlap["prompt"])
    prompts = {name: {item.rows[0].item for item in items} for name, items in items_of(made).items()}
    assert not prompts["test"] & prompts["validation"]
    for most in (None, 1, 1000):
        assert len(sampled(made.test_items, most)) == min(most or 10**9, len(made.test_items))
        assert len(sampled_by_rows(made.validation_items, most or 10**9)) <= len(made.validation_items)
    assert_planned(made, Config(data=wish, evaluation=Evaluation(rows=100)))


def items_of(made: Any) -> dict[str, Any]:
    return {"test": made.test_items, "validation": made.validation_items}


def assert_planned(made: Any, config: Config) -> None:
    """What the worker, the probe and the planner derive from the rows before the first step."""
    machine = this_machine()
    sampler = BatchSampler.of(len(made.train), config.train.batch, config.train.epochs, None, 0)
    packing, sharing = decide_sharing(
        choose_packing(made.train, "auto", machine.device, True, True), made.train, sampler, config
    )
    planned = DataWorkload(made, sampler, packing, sharing, 4096, machine)
    own = planned.worst_case(config, 4)
    assert planned.whole.rows >= 1 and own.step and own.rows().count >= 1
    assert bool(own.prompts) == bool(made.test_items)
    own.work(config, 4, machine.device)


@pytest.mark.parametrize("kind", CONTENTS)
def test_a_set_of_bad_rows_alone_is_refused(files: Path, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    wish = Data(id=str(files / f"{kind} 0 all bad.jsonl"))
    with pytest.raises(UserError):
        prepare(wish, LENGTH, tokenizer)
    assert checked(wish, tokenizer)[1]


def test_a_single_bad_row_among_few_held_out_ones_does_not_refuse_the_set(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows = [CONTENTS["distinct"](n) for n in range(40)]
    write(tmp_path / "rows.jsonl", [*rows[:37], *({**row, "completion": ""} for row in rows[37:])])
    for seed in range(20):
        wish = Data(id=str(tmp_path / "rows.jsonl"), seed=seed, validation=0.03)
        assert check(wish, LENGTH, tokenizer)["refused"] is None


def test_a_ladder_without_test_rows_is_refused_as_it_is_planned() -> None:
    with pytest.raises(UserError) as caught:
        make_plan("demo", [], {"data.test": 0.0})
    assert (caught.value.location, caught.value.code) == ("data.test", "ladder.no_test_rows")
