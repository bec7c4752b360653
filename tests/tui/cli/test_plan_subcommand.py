"""What `ftbench plan` prints, by the formula only, without an engine process."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command import ftbench
from imported import HEAVY, loaded_by
from made_runs import write_events
from message_parts import figures
from rich.text import Text
from schema_checks import validator

from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_title
from engine.config.preset_library import resolve_preset
from engine.config.quantities import relative_error
from engine.memory.formula import history
from engine.memory.formula.estimate import error_of
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import TrainingWork, quick_plan
from engine.runs.run import run_dir
from engine.runs.run.result import Predicted
from engine.runs.run.run_dir import RunDir
from tui.cli import plan as command
from tui.cli.plan_view import COMPONENTS, legend, memory_bar

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
    """A finished run of the embedded model, as a worker writes it."""
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", method, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status, result.steps, result.tokens_per_second = "finished", 100, speed
    result.machine = {"device": device}
    if predicted:
        result.predicted = [Predicted(tier="formula", training=predicted), Predicted(tier="dry run", training=measured)]
    result.peak_training_bytes = measured
    run_dir.write_result(run, result)


def test_the_subcommand_imports_nothing_heavy() -> None:
    assert not loaded_by("import tui.cli.plan") & set(HEAVY)


@pytest.mark.parametrize(("gpu", "width"), [("L4", 160), ("A100 80GB", 80), ("b200", 80)])
def test_methods_are_compared_within_the_terminal_width(model: str, width: int, gpu: str) -> None:
    done = quick("--model", model, "--gpu", gpu, env={**os.environ, "COLUMNS": str(width)})
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= width
    bars = [line for line in lines if line.endswith("│")]
    assert [line.split()[0] for line in bars] == ["QLoRA", "LoRA", "Full"]
    assert len({len(line) for line in bars}) == 1
    assert error_of("formula", "cuda").line.split(" against ")[0] in done.stdout


def test_a_method_that_does_not_fit_gets_changes_that_make_it_fit(model: str) -> None:
    text = quick("--model", model, "--gpu", "A4000").stdout
    assert re.search(r"^Full exceeds .* \d+\.\d+ GiB", text, re.MULTILINE)
    assert "--method qlora" in text


def test_the_plan_names_what_makes_full_fine_tuning_fit_level_by_level(model: str) -> None:
    text = quick("--model", model, "--gpu", "4090", "--set", "train.batch=2").stdout
    shown = text[text.index("Full fits with") :].split("\n\n")[0].splitlines()
    assert shown[0].startswith("Full fits with stochastic rounding, checkpointing of all layers")
    levels = [line for line in shown if re.search(r"GiB (fits|tight|does not fit) +≥ \d+\.\d s/step", line)]
    assert len(levels) > 8
    (chosen,) = (line for line in levels if "→" in line)
    assert " fits " in chosen and "optimizer state in host memory" in "\n".join(shown)
    assert any("optimizer.step_in_backward = true: a step is one micro-batch" in line for line in shown)


@pytest.mark.parametrize("how", [{"PYTHONIOENCODING": "ascii"}, {}])
def test_plain_terminals_get_ascii(model: str, how: dict[str, str]) -> None:
    arguments = [] if how else ["--ascii"]
    text = quick(
        "--model", model, "--gpu", "4090", "--set", "optimizer.step_in_backward=false", "--set",
        "optimizer.name=adamw_8bit", *arguments, env={**os.environ, **how, "NO_COLOR": "1"},
    ).stdout  # fmt: skip
    assert text.isascii()
    assert "WWWW" in text and "OOOO" in text and "W weights" in text


def test_json_has_the_fields_of_its_schema(model: str) -> None:
    output = json.loads(quick("--model", model, "--gpu", "4090", "--json", "--length", "512").stdout)
    validator("plan").validate(output)
    assert output["methods"][0]["time"] and output["measured_errors"]
    assert output["rows"]["length"] == 512 and output["rows_from"] == "asked"


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ({"gpu": "a100x"}, "gpu.unknown", "A100 80GB?"),
        ({"gpu": "80GB"}, "gpu.ambiguous_name", "(A100 80GB, H100 80GB)"),
        ({"model": "/no/such/folder"}, "plan.no_model_config", "/no/such/folder"),
        ({"model": "nobody/nothing"}, "plan.no_model_config", "HF_HUB_OFFLINE"),
        ({"length": 4000, "model": "tiny"}, "plan.longer_than_model", "1,024"),
        ({"method": "full", "settings": ["adapter.rank=8"]}, "plan.unread_key", "adapter.rank"),
        ({"settings": ["train.no_such=8"]}, "preset.unknown_key", "train.no_such"),
    ],
)
def test_bad_input_is_refused(given: dict[str, Any], code: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        command.plan("qwen2.5-7b-lora", quick=True, runs=tmp_path, **given)
    assert refused.value.code == code and named in refused.value.line


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--gpu", ""], "cli.empty_value", "--gpu"),
        (["--micro-batch", "4000"], "preset.micro_batch_too_large", "train.batch"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], code: str, named: str) -> None:
    done = quick(*arguments, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert error["code"] == code and named in UserError(error["problem"], error["location"], error["hint"]).line


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "no config.json"), ("{broken", "cannot read"), ("[]", "not an object")],
)
def test_a_model_folder_without_a_configuration_is_one_line_without_waiting_for_torch(
    text: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text:
        (tmp_path / "config.json").write_text(text)
    monkeypatch.setattr(command, "ask", pytest.fail)
    with pytest.raises(UserError, match=says) as refused:
        command.plan("demo-lora", model=str(tmp_path), gpu="L4", runs=tmp_path)
    assert (refused.value.code, refused.value.location) == ("plan.no_model_config", str(tmp_path))


def test_time_is_unknown_without_earlier_runs() -> None:
    text = ftbench("plan", "demo-lora", "--quick").stdout
    assert "unknown" in text
    titles = ", ".join(map(method_title, method_names()))
    assert f" {titles}: no finished run" in text  # once, for all of them


def test_time_and_cost_come_from_finished_runs(tmp_path: Path) -> None:
    """3.6M tokens at 1,000 to 2,000 tokens/s take 0.5 to 1 h."""
    runs = tmp_path / "runs"
    for speed in (1000.0, 1500.0, 2000.0):
        made_run(runs, "lora", speed, "NVIDIA A100-SXM4-80GB")
    made_run(runs, "lora", 9e9, "NVIDIA H100 80GB HBM3")  # speed on another GPU is not used
    made_run(runs, "full", 9e9, "NVIDIA A100-SXM4-80GB")
    query = command.make_query("demo-lora", "lora", {}, "A100", 64)
    plan = quick_plan(query, command.model_table(query.configs[0]))
    plan.work = TrainingWork(rows=1, steps=1, tokens=3_600_000)
    time = command.estimated_times(plan, query.configs, list(history.results(runs)))["lora"]
    assert (time.seconds, time.low, time.high, time.runs) == (2400, 1800, 3600, 3)
    price = plan.budget.price_per_hour
    assert price and time.cost_low == pytest.approx(price / 2) and time.cost_high == pytest.approx(price)


def test_a_single_run_gives_a_range_over_its_steps(tmp_path: Path) -> None:
    made_run(tmp_path, "lora", 3300.0, "a GPU")
    (run,) = RunDir.iterate(tmp_path)
    write_events(run, "lora", 0)
    budget = MemoryBudget(name="a GPU", device="cuda", source="gpu", total=GIB)
    pace = history.throughput(list(history.results(tmp_path)), "tiny", "lora", budget)
    assert pace and pace.runs == 1 and pace.low < 3300 < pace.high


def test_history_compares_predictions_with_measured_peaks(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    made_run(runs, "lora", 1000.0, "here", predicted=900, measured=1000)
    made_run(runs, "full", 1000.0, "here", predicted=1200, measured=1000)
    made_run(runs, "qlora", 1000.0, "here")  # from before there were predictions
    text = ftbench("plan", "--history").stdout
    assert "-10.0%" in text and "+20.0%" in text
    formula, dry_run = (line for line in text.splitlines() if line.startswith("here, "))
    assert formula.startswith("here, formula:") and figures(formula) == ["15.0%", "+20.0%", "2"]
    assert dry_run.startswith("here, dry run:") and figures(dry_run) == ["0.0%", "+0.0%", "2"]
    output = json.loads(ftbench("plan", "--history", "--json").stdout)
    assert [round(run["error"], 3) for run in output["runs"] if run["tier"] == "formula"] == [-0.1, 0.2]
    assert {tier["tier"]: tier["count"] for tier in output["tiers"]} == {"formula": 2, "dry run": 2}


def test_an_empty_history_tells_how_to_create_one() -> None:
    done = ftbench("plan", "--history")
    assert done.returncode == 0
    assert "ftbench run" in done.stdout


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "\x1b[31mred\x1b]52;c;aGk=\x07[bold]"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA_8B))
    text = quick("--model", str(folder), "--gpu", "L4").stdout
    assert "\x1b" not in text and "\x07" not in text
    assert "[bold]" in text


def test_a_key_is_applied_to_the_methods_that_read_it() -> None:
    query = command.make_query("demo-lora", None, {"adapter.rank": 8}, "L4", None)
    assert [config.adapter.rank for config in query.configs] == [8, 8, 16]
    with pytest.raises(UserError) as caught:
        command.make_query("demo-lora", "lora", {"quantization.double": False}, "L4", None)
    assert caught.value.code == "plan.unread_key"


def cells(text: Text) -> str:
    return text.plain


def test_a_memory_bar_is_scaled_to_the_budget() -> None:
    assert cells(memory_bar({"weights": 50, "logits": 25}, 100, 20, False)) == "WWWWWWWWWWLLLLL·····│"
    assert cells(memory_bar({"others": 50, "weights": 25}, 100, 8, False)) == "xxxxWW··│"
    assert cells(memory_bar({"weights": 1}, 1000, 10, False)) == "W·········│"
    assert cells(memory_bar({"weights": 60, "optimizer": 60}, 100, 10, False)) == "WWWWWWOOO▶│"
    assert cells(memory_bar({}, 100, 4, False)) == "····│"
    tenths = dict.fromkeys(list(COMPONENTS)[2:8], 5)  # half a cell each: rounded one by one they would be six or none
    assert cells(memory_bar(tenths, 100, 10, False)).count("·") == 7


def test_colors_are_in_addition_to_letters() -> None:
    text = memory_bar({"weights": 50, "logits": 25}, 100, 20, True)
    assert text.plain == "W" + " " * 9 + "L" + " " * 4 + "·" * 5 + "│"
    assert [line.plain for line in legend({"weights": 1, "logits": 1, "pool": 0}, 80, False)] == ["W weights  L logits"]
    assert all(line.cell_len <= 30 for line in legend(dict.fromkeys(COMPONENTS, 1), 30, True))
    assert (
        len({part.letter for part in COMPONENTS.values()})
        == len({part.style for part in COMPONENTS.values()})
        == len(COMPONENTS)
    )


def test_small_errors_have_two_decimals() -> None:
    assert (relative_error(0.0001), relative_error(-0.0432), relative_error(0.133)) == ("0.01%", "−4.3%", "13.3%")
