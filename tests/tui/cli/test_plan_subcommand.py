"""What `ftbench plan` prints, by the formula alone: no engine is asked."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command import ftbench
from imported import HEAVY, loaded_by
from made_runs import write_events
from places import DOCS
from rich.text import Text

from engine.config.errors import UserError
from engine.config.preset_library import effective
from engine.memory.formula import history
from engine.memory.formula.measured_error import error_of, percent
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import TrainingWork, quick_plan
from engine.runs import run_dir
from engine.runs.result import Predicted
from tui.charts.plan_bar import PARTS, bar, legend
from tui.cli import plan as verb

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
}  # fmt: skip
GIB = 1 << 30


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with a config.json and nothing else."""
    folder = tmp_path / "llama8b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    return str(folder)


def quick(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return ftbench("plan", "qwen2.5-7b-lora", "--quick", *arguments, **how)


def made_run(
    runs: Path, method: Any, speed: float, device: str, predicted: int = 0, measured: int | None = None
) -> None:
    """A finished run of the embedded model, as a worker would have written it."""
    run = run_dir.create(runs, "demo-lora", effective("demo-lora", method, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status, result.steps, result.tokens_per_second = "finished", 100, speed
    result.machine = {"device": device}
    if predicted:
        result.predicted = [Predicted(tier="formula", training=predicted), Predicted(tier="dry run", training=measured)]
    result.peak_training_bytes = measured
    run_dir.write_result(run, result)


def test_the_verb_imports_nothing_heavy() -> None:
    assert not loaded_by("import tui.cli.plan") & set(HEAVY)


@pytest.mark.parametrize("width", [80, 160])
@pytest.mark.parametrize("card", ["L4", "A100 80GB", "b200"])
def test_three_methods_side_by_side_in_as_much_room_as_there_is(model: str, width: int, card: str) -> None:
    done = quick("--model", model, "--card", card, env={**os.environ, "COLUMNS": str(width)})
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    bars = [line for line in lines if line.endswith("│")]
    assert [line.split()[0] for line in bars] == ["QLoRA", "LoRA", "Full"]
    assert len({len(line) for line in bars}) == 1
    assert error_of("formula", "cuda").line.split(" against ")[0] in done.stdout


def test_what_does_not_fit_is_told_what_would_make_it(model: str) -> None:
    text = quick("--model", model, "--card", "4090").stdout
    assert "Full lacks" in text
    assert "--method qlora" in text
    assert "as it is: on A100 80GB" in text


@pytest.mark.parametrize("how", [{"PYTHONIOENCODING": "ascii"}, {}])
def test_plain_terminals_get_ascii(model: str, how: dict[str, str]) -> None:
    arguments = [] if how else ["--ascii"]
    text = quick("--model", model, "--card", "4090", *arguments, env={**os.environ, **how, "NO_COLOR": "1"}).stdout
    assert text.isascii()
    assert "WWWW" in text and "OOOO" in text and "W weights" in text


def test_json_holds_what_is_documented(model: str) -> None:
    found = json.loads(quick("--model", model, "--card", "4090", "--json", "--length", "512").stdout)
    page = (DOCS / "plan-json.md").read_text()
    names = set(found) | set(found["outlooks"][0]) | set(found["room"]) | set(found["outlooks"][0]["time"])
    names |= set(found["outlooks"][0]["formula"]) | set(found["outlooks"][2]["changes"][0])
    assert not {name for name in names if f"`{name}`" not in page}
    assert found["rows"]["length"] == 512 and found["rows_from"] == "asked"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--card", "a100x"], "did you mean A100 80GB?"),
        (["--card", "80GB"], "could be A100 80GB, H100 80GB"),
        (["--card", ""], "empty value for --card"),
        (["--model", "/no/such/folder"], "no such model folder"),
        (["--model", "nobody/nothing"], "not on this machine"),
        (["--length", "4000", "--model", "tiny"], "supports 1,024 positions"),
        (["--micro-batch", "4000"], "larger than train.batch"),
        (["--method", "full", "--set", "adapter.rank=8"], "adapter.rank is not read by full"),
        (["--set", "train.no_such=8"], "nothing reads the key"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], says: str) -> None:
    done = quick(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no config.json in this model folder"),
        ("{broken", "config.json cannot be read"),
        ("[]", "config.json is no model configuration"),
    ],
)
def test_a_model_folder_without_a_configuration_is_one_line_without_waiting_for_torch(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text:
        (tmp_path / "config.json").write_text(text)
    monkeypatch.setattr(verb, "ask", pytest.fail)
    wish = verb.Wish("demo-lora", None, {"model.id": str(tmp_path)}, "L4", None, False, tmp_path, False, False)
    with pytest.raises(UserError, match=says):
        verb.plan(wish)


def test_without_a_preset_it_asks_for_one() -> None:
    done = ftbench("plan")
    assert done.returncode == 2 and "which preset?" in done.stderr


def test_without_earlier_runs_it_says_that_it_does_not_know_the_time() -> None:
    text = ftbench("plan", "demo-lora", "--quick").stdout
    assert "not known" in text
    assert "training time of QLoRA, LoRA, Full: no finished run of this model" in text


def test_time_and_cost_come_from_finished_runs(tmp_path: Path) -> None:
    """1,000 to 2,000 tokens a second and 3.6 million tokens: half an hour to an hour, at 2 an hour 1 to 2."""
    runs = tmp_path / "runs"
    for speed in (1000.0, 1500.0, 2000.0):
        made_run(runs, "lora", speed, "NVIDIA A100-SXM4-80GB")
    made_run(runs, "lora", 9e9, "NVIDIA H100 80GB HBM3")  # another card's speed is not this one's
    made_run(runs, "full", 9e9, "NVIDIA A100-SXM4-80GB")
    wish = verb.Wish("demo-lora", "lora", {}, "A100", 64, True, runs, False, False)
    question = verb.make_question(wish)
    plan = quick_plan(question, verb.model_table(question.configs[0]))
    plan.work = TrainingWork(rows=1, steps=1, tokens=3_600_000)
    time = verb.estimated_times(plan, question.configs, list(history.results(runs)))["lora"]
    assert (time.seconds, time.low, time.high, time.runs) == (2400, 1800, 3600, 3)
    price = plan.room.price_per_hour
    assert price and time.cost_low == pytest.approx(price / 2) and time.cost_high == pytest.approx(price)


def test_a_single_run_gives_a_range_over_its_steps(tmp_path: Path) -> None:
    made_run(tmp_path, "lora", 3300.0, "a card")
    (run,) = run_dir.iterate(tmp_path)
    write_events(run, "lora", 0)
    room = MemoryBudget(name="a card", device="cuda", source="card", total=GIB)
    pace = history.throughput(list(history.results(tmp_path)), "tiny", "lora", room)
    assert pace and pace.runs == 1 and pace.low < 3300 < pace.high


def test_history_holds_predictions_against_peaks(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made_run(runs, "lora", 1000.0, "here", predicted=900, measured=1000)
    made_run(runs, "full", 1000.0, "here", predicted=1200, measured=1000)
    made_run(runs, "qlora", 1000.0, "here")  # from before there were predictions
    text = ftbench("plan", "--history").stdout
    assert "-10.0%" in text and "+20.0%" in text
    assert "here, formula: median error 15.0%, worst +20.0%, 2 runs" in text
    assert "here, dry run: median error 0.0%" in text
    found = json.loads(ftbench("plan", "--history", "--json").stdout)
    assert [round(one["error"], 3) for one in found["runs"] if one["tier"] == "formula"] == [-0.1, 0.2]
    assert {one["tier"]: one["count"] for one in found["tiers"]} == {"formula": 2, "dry run": 2}


def test_an_empty_history_says_what_makes_one() -> None:
    done = ftbench("plan", "--history")
    assert done.returncode == 0
    assert "ftbench run" in done.stdout


def test_hostile_names_steer_no_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31mred\x1b]52;c;aGk=\x07[bold]"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    text = quick("--model", str(folder), "--card", "L4").stdout
    assert "\x1b" not in text and "\x07" not in text
    assert "[bold]" in text


def test_a_key_that_only_some_methods_read_is_for_those() -> None:
    question = verb.make_question(
        verb.Wish("demo-lora", None, {"adapter.rank": 8}, "L4", None, True, Path(), False, False)
    )
    assert [config.adapter.rank for config in question.configs] == [8, 8, 16]
    with pytest.raises(UserError, match="not read by"):
        verb.make_question(
            verb.Wish("demo-lora", "lora", {"quantization.double": False}, "L4", None, True, Path(), False, False)
        )


def cells(text: Text) -> str:
    return text.plain


def test_a_bar_is_as_long_as_the_card_and_its_parts_have_their_share() -> None:
    assert cells(bar({"weights": 50, "logits": 25}, 100, 20, False, True)) == "WWWWWWWWWWLLLLL.....|"
    assert cells(bar({"others": 50, "weights": 25}, 100, 8, False, False)) == "xxxxWW··│"
    assert cells(bar({"weights": 1}, 1000, 10, False, True)) == "W.........|"
    assert cells(bar({"weights": 60, "optimizer": 60}, 100, 10, False, True)) == "WWWWWWOOO>|"
    assert cells(bar({}, 100, 4, False, True)) == "....|"
    tenths = dict.fromkeys(list(PARTS)[2:8], 5)  # half a cell each: rounded one by one they would be six or none
    assert cells(bar(tenths, 100, 10, False, True)).count(".") == 7


def test_colours_are_on_top_of_letters_and_not_in_their_place() -> None:
    text = bar({"weights": 50, "logits": 25}, 100, 20, True, False)
    assert text.plain == "W" + " " * 9 + "L" + " " * 4 + "·" * 5 + "│"
    assert [line.plain for line in legend({"weights": 1, "logits": 1, "pool": 0}, 80, False)] == ["W weights  L logits"]
    assert all(line.cell_len <= 30 for line in legend(dict.fromkeys(PARTS, 1), 30, True))
    assert len({part.letter for part in PARTS.values()}) == len({part.style for part in PARTS.values()}) == len(PARTS)


def test_small_errors_are_quoted_with_two_digits() -> None:
    assert (percent(0.0001), percent(-0.0432), percent(0.133)) == ("0.01 %", "-4.3 %", "13.3 %")
