"""A method, a metric and a rung from another package work everywhere without a change in ftbench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import forked
import pytest
from command import MICRO, ON_SMALL, ftbench
from pilot import play
from places import TESTS
from textual.pilot import Pilot

from engine.config.method_specs import BUILT_IN, TrainedRung, lora_notices, method_specs, readers
from engine.config.metric_specs import metric_specs
from engine.config.settings import known_keys
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.rung_kinds import rung_kinds
from engine.runs.run.export_formats import export_formats
from tui.app import Workbench
from tui.widgets.selection_pane import MethodList

EXAMPLE = str(TESTS / "plugin_example")


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example package, importable here and in every process started from here."""
    monkeypatch.syspath_prepend(EXAMPLE)
    monkeypatch.setenv("PYTHONPATH", EXAMPLE)
    for cached in (method_specs, metric_specs, rung_kinds, export_formats):
        cached.cache_clear()
    yield
    monkeypatch.undo()
    for cached in (method_specs, metric_specs, rung_kinds, export_formats):
        cached.cache_clear()


def test_the_method_is_planned() -> None:
    done = forked.ftbench("plan", "demo-lora", "--method", "vera", "--json")
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)["methods"]
    assert plan["method"] == "vera" and plan["dry_run"]["training"]["total"] > 0


def test_every_setting_is_read_by_a_built_in_method() -> None:
    """A new key of an optional section is read only by methods that name it."""
    assert not [key for key in known_keys() if not set(readers(key)) & {spec.name for spec in BUILT_IN}]


def test_a_setting_that_the_method_does_not_read_is_refused() -> None:
    done = ftbench("plan", "demo-lora", "--method", "vera", "--set", "adapter.init=pissa", "--json")
    assert done.returncode == 2 and "plan.unread_key" in done.stderr


def test_the_bench_lists_the_method(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        pane = app.bench.query_one(MethodList)
        lines = [str(pane.get_option_at_index(number).prompt) for number in range(pane.option_count)]
        assert any("VeRA" in line and "vectors, bf16 base" in line for line in lines)

    play(tmp_path, story)


def test_a_ladder_trains_scores_and_reports_them(tmp_path: Path) -> None:
    rungs = ("--rung", "vera", "--rung", "full", "--rung", "same=answer:late")
    done = forked.ftbench("ladder", "demo", *MICRO, *ON_SMALL, *rungs, "--set", "evaluation.metric=edits", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    state = json.loads(done.stdout)
    rows = {row["name"]: row for row in state["rows"]}
    assert state["work"]["metric"] == "edits" and rows["vera"]["status"] == "finished"
    assert rows["vera"]["trainable"] < rows["full"]["trainable"]
    assert rows["full"]["score"]["mean"] > 1  # edits, not a share
    assert rows["@same"]["status"] == "finished" and rows["@same"]["score"]["mean"] > 1
    assert ("full", "@same") in [(comparison["a"], comparison["b"]) for comparison in state["comparisons"]]
    sentences = [sentence["text"] for sentence in state["verdict"]]
    assert any(text.startswith("The constant answer same has a edits of") for text in sentences)
    assert "same does not read the prompt." in sentences
    (folder,) = LadderDir.iterate(tmp_path / "runs")
    for page in (folder.page, folder.markdown):
        text = page.read_text("utf-8")
        assert "vera" in text and "edits" in text and "Constant answers" in text
    assert "VeRA" in folder.markdown.read_text("utf-8")
    trained = {entry["rung"]: entry["run"] for entry in state["entries"] if entry["kind"] == "run"}
    packed = forked.ftbench("export", trained["full"], "--to", "zip", "--json", "--margin", "100000")
    assert packed.returncode == 0, packed.stderr
    artifact = json.loads(packed.stdout)
    check, file = artifact["fidelity"], Path(artifact["folder"]) / "model.zip"
    assert (check["kind"], check["defects"], check["bytes"]) == ("zip", [], file.stat().st_size)
    assert check["largest_logit_difference"] is not None and "A zip archive" in (file.parent / "README.md").read_text()
    run = trained["vera"]
    done = forked.ftbench("export", run, "--to", "adapter")
    assert done.returncode == 0 and "largest logit difference: 0 " in done.stdout, done.stdout + done.stderr
    card = (tmp_path / "runs" / run / "exports" / "adapter" / "README.md").read_text("utf-8")
    assert "AutoPeftModelForCausalLM" in card and "vllm serve" not in card  # vLLM serves adapters of LoRA only


def test_no_advice_for_lora_is_given_about_other_adapters() -> None:
    """Neither warnings about its rate, which has another optimum, nor a command of vLLM, which serves LoRA only."""
    full = TrainedRung("full", 2e-5, 16, "all-linear")
    for method, expected in (("lora", 4), ("vera", 0)):
        rung = TrainedRung(method, 1e-2, 256, ["q_proj"], trainable=1000, answer_tokens=2000)
        assert len(lora_notices({"rung": rung, "full": full})) == expected


def test_without_the_package_its_runs_are_still_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH")
    done = ftbench("plan", "demo-lora", "--method", "vera")
    assert done.returncode == 2 and "unknown method 'vera'" in done.stderr
