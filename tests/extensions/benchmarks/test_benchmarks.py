"""Benchmarks of lm-evaluation-harness: task files as data, scores by item, and runs that are scored on them."""

from __future__ import annotations

import copy
import importlib
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from command import MICRO, ON_SMALL, only_run
from faults.worker_runs import stop
from forked import ftbench
from lm_eval.api.instance import Instance
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from task_files import ITEMS, choice_task, generation_task
from tiny_configs import model_with

from engine.config import schema
from engine.config.errors import RunFailed, UserError
from engine.config.preset import Preset, resolve
from engine.config.preset_library import resolve_preset
from engine.config.settings import with_settings
from engine.extensions.benchmarks import tasks
from engine.extensions.benchmarks.scoring import LoadedModel, score_benchmark
from engine.extensions.benchmarks.settings import check, settings_of
from engine.extensions.benchmarks.tasks import Benchmark, RemoteCode, import_harness, load_benchmarks, task_manager
from engine.ladder.pipeline import probe_config
from engine.ladder.runner import relevant_settings
from engine.methods import full
from engine.methods.machine import Machine
from engine.methods.model_source import load_tokenizer
from engine.methods.rope import separate_lengths
from engine.runs.run.run_dir import RunDir

HARMLESS = "task: harmless\ndataset_path: json\n"


def scored_on(*benchmarks: str, limit: int | None = None) -> schema.Config:
    return with_settings(
        schema.Config(), {"evaluation.benchmarks": list(benchmarks), "evaluation.benchmark_limit": limit}
    )


def load(*files: Path, limit: int | None = None) -> list[Benchmark]:
    return load_benchmarks(scored_on(*map(str, files), limit=limit))


def refused(file: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load(Path(file)) if isinstance(file, Path) else load_benchmarks(scored_on(file))
    assert caught.value.line.count("\n") == 0
    return caught.value.code


def wait_until(condition: Callable[[], bool], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def ignore(done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def tiny() -> tuple[torch.nn.Module, Any]:
    config = resolve_preset("demo", "full", {"train.precision": "fp32"}).config
    return full.load(config, Machine("cpu", "cpu", False, False)), load_tokenizer(schema.Model())


def this_task(folder: Path) -> Path:
    """Answers that begin with "this" are right, as some of the embedded model's do: the metric ignores them and the
    reference "right", so that both texts are empty.
    """
    remove = ["right", " this.*"]
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "regexes_to_ignore": remove}
    return generation_task(folder, doc_to_target="right", metric_list=[metric])


@pytest.mark.parametrize("make", [choice_task, this_task])
def test_the_scores_of_items_are_those_of_the_library(
    tmp_path: Path, tiny: Any, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)  # which starts pip and git
    model, tokenizer = tiny
    (benchmark,) = load(make(tmp_path))
    before = copy.deepcopy(tokenizer.init_kwargs), tokenizer.padding_side, model.training
    scored = score_benchmark(model, tokenizer, benchmark, 3, ignore)
    assert (tokenizer.init_kwargs, tokenizer.padding_side, model.training) == before
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=1)
    (other,) = load(make(tmp_path))
    results = simple_evaluate(lm, tasks=[other.task], task_manager=task_manager(), bootstrap_iters=0)
    assert results is not None
    samples = sorted(results["samples"][other.name], key=lambda sample: sample["doc_id"])
    assert scored.items == [float(sample[scored.metric]) for sample in samples]
    assert scored.score.mean == pytest.approx(results["results"][other.name][f"{scored.metric},none"])
    assert scored.items != scored.items[::-1]  # else an order that is wrong would not show
    assert scored.score.rows == ITEMS and scored.is_share and scored.higher_is_better


@pytest.mark.parametrize(("family", "rope"), [("llama", "dynamic"), ("phi3", "longrope")])
def test_items_are_scored_as_alone_where_rope_depends_on_their_length(tiny: Any, family: str, rope: str) -> None:
    """Likelihoods, and answers, of rows on both sides of the length at which it changes."""
    _, tokenizer = tiny
    questions = ["{{question}} " + "and " * number for number in range(25)]
    plain = model_with(rope, family, vocabulary=len(tokenizer))
    model = copy.deepcopy(plain)
    separate_lengths(model)
    requests = [Instance("loglikelihood", {}, (text, " blue sky"), number) for number, text in enumerate(questions)]
    asked = [
        Instance("generate_until", {}, (text, {"until": [], "max_gen_toks": 5}), n) for n, text in enumerate(questions)
    ]

    def loaded(network: Any, batch: int) -> LoadedModel:
        return LoadedModel(network, tokenizer, batch, ignore)

    likelihoods, answers = loaded(model, 8).loglikelihood(requests), loaded(model, 8).generate_until(asked)
    for number in range(len(questions)):
        ((likelihood, _),) = loaded(copy.deepcopy(plain), 1).loglikelihood([requests[number]])
        assert likelihood == pytest.approx(likelihoods[number][0], rel=1e-5)
        assert loaded(copy.deepcopy(plain), 1).generate_until([asked[number]]) == [answers[number]]


def test_progress_counts_requests_and_can_end_the_scoring(tmp_path: Path, tiny: Any) -> None:
    (benchmark,) = load(choice_task(tmp_path), limit=4)
    seen: list[tuple[int, int]] = []
    score_benchmark(tiny[0], tiny[1], benchmark, 2, lambda *now: seen.append(now))
    assert seen == [(done, 8) for done in range(9)]

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_benchmark(tiny[0], tiny[1], benchmark, 2, stop)


def test_the_batch_is_halved_when_memory_runs_out(tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (benchmark,) = load(choice_task(tmp_path), limit=4)
    expected = score_benchmark(tiny[0], tiny[1], benchmark, 8, ignore).items
    call, sizes = LoadedModel._model_call, []

    def limited(self: Any, inputs: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        sizes.append(len(inputs))
        if len(inputs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, inputs, *rest, **options)

    monkeypatch.setattr(LoadedModel, "_model_call", limited)
    assert score_benchmark(tiny[0], tiny[1], benchmark, 8, ignore).items == expected
    assert sizes[0] > 2 and sizes[-1] <= 2


@pytest.mark.parametrize(
    "text",
    [
        HARMLESS + "doc_to_text: !function utils.text\n",
        HARMLESS + "doc_to_text: !!python/object/apply:os.system [echo]\n",
        HARMLESS + "process_docs: utils.process\n",
        HARMLESS + "class: os.system\n",
        HARMLESS + "use_prompt: promptsource:x\n",
        HARMLESS + "dataset_kwargs: {trust_remote_code: true}\n",
        HARMLESS + "dataset_kwargs: {data_files: t.yaml}\nmetric_list: [{metric: x/y, hf_evaluate: true}]\n",
    ],
)
def test_a_task_file_that_could_run_code_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    (tmp_path / "utils.py").write_text("raise SystemExit('ran')\n")
    assert refused(file) == "benchmark.code"


def test_the_library_evaluate_is_not_imported_and_its_metrics_are_refused() -> None:
    import_harness()
    evaluate = importlib.import_module("evaluate")
    assert not hasattr(evaluate, "__file__")
    with pytest.raises(RemoteCode, match="accuracy"):
        evaluate.load("accuracy")


def test_metrics_are_refused_also_if_the_library_evaluate_was_imported_before(monkeypatch: pytest.MonkeyPatch) -> None:
    imported = ModuleType("evaluate")
    monkeypatch.setitem(sys.modules, "evaluate", imported)
    import_harness.__wrapped__()
    with pytest.raises(RemoteCode, match="accuracy"):
        vars(imported)["load"]("accuracy")


def test_a_template_cannot_leave_the_sandbox(tmp_path: Path) -> None:
    assert refused(choice_task(tmp_path, doc_to_text="{{ ''.__class__.__mro__ }}")) == "benchmark.code"


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"doc_to_text": ENDLESS}, "benchmark.timeout"),
        ({"doc_to_text": f"{{% if '{ITEMS - 1}.' in question %}}{ENDLESS}{{% endif %}}"}, "benchmark.timeout"),
        ({"doc_to_text": "{{ 'x' * 9999999999 }}"}, "benchmark.invalid_task"),
    ],
    ids=["endless", "endless for the last item", "10 GB"],
)
def test_a_task_file_takes_bounded_time_and_memory(
    changes: dict[str, Any], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last item is beyond those that are scored in this process."""
    if code == "benchmark.timeout":
        monkeypatch.setattr(tasks, "LOAD_SECONDS", 1.0)
        monkeypatch.setattr(tasks, "ITEM_SECONDS", 0.02)
    monkeypatch.setattr(tasks, "REHEARSED_ITEMS", 4)
    assert refused(choice_task(tmp_path, "hostile", **changes)) == code


SLOW = "(?:.|[^x])*!"
"""It takes exponential time on texts without `!`, and none on the empty answers of the check."""


@pytest.mark.parametrize(
    "changes",
    [
        {"filter_list": [{"name": "found", "filter": [{"function": "regex", "regex_pattern": SLOW}]}]},
        {"metric_list": [{"metric": "exact_match", "aggregation": "mean", "regexes_to_ignore": [SLOW]}]},
    ],
)
def test_regular_expressions_of_a_task_file_take_bounded_time_on_answers(
    tmp_path: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    (benchmark,) = load(generation_task(tmp_path, **changes))
    monkeypatch.setattr(LoadedModel, "generate_until", lambda model, requests, **_: ["a" * 60 for _ in requests])
    monkeypatch.setattr(tasks, "LOAD_SECONDS", 0.5)
    for _ in range(2):
        with pytest.raises(RunFailed, match="regular expression") as raised:
            score_benchmark(tiny[0], tiny[1], benchmark, 2, ignore)
        assert raised.value.code == "benchmark.timeout"
    monkeypatch.undo()
    assert signal.getitimer(signal.ITIMER_PROF) == (0, 0) and signal.getsignal(signal.SIGPROF) is signal.SIG_DFL


def test_values_that_anchors_multiply_take_bounded_time_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "LOAD_SECONDS", 1.0)
    file = choice_task(tmp_path)
    levels = [f"  x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 20)]
    text = yaml.safe_dump(json.loads(file.read_text()))
    file.write_text("\n".join([text, "metadata:", "  x0: &x0 [x]", *levels, ""]))
    assert refused(file) in ("benchmark.timeout", "benchmark.invalid_task")


def test_an_included_file_is_read_in_the_same_way(tmp_path: Path) -> None:
    choice_task(tmp_path, "base")
    file = tmp_path / "mine.yaml"
    file.write_text("include: base.yaml\ntask: mine\n")
    assert load(file)[0].name == "mine"
    (tmp_path / "base.yaml").write_text("doc_to_text: !function utils.text\n")
    assert refused(file) == "benchmark.code"
    (tmp_path / "base.yaml").write_text("include: mine.yaml\n")
    assert refused(file) == "benchmark.invalid_file"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"task": "../escape"}, "benchmark.invalid_file"),
        ({"doc_to_txt": "x"}, "benchmark.invalid_file"),
        ({"dataset_path": "pandas"}, "benchmark.invalid_file"),
        ({"dataset_kwargs": {"data_files": "https://example.invalid/x.jsonl"}}, "benchmark.data_not_found"),
        ({"generation_kwargs": {"custom_generate": "."}}, "benchmark.invalid_file"),
        ({"metric_list": [{"metric": "some/metric"}]}, "benchmark.unknown_metric"),
        ({"metric_list": [{"metric": "f1"}]}, "benchmark.no_item_scores"),
        ({"test_split": "nope"}, "benchmark.invalid_task"),
        ({"doc_to_target": "{{choices[0]}}", "output_type": "generate_until"}, "benchmark.invalid_task"),
        ({"dataset_path": "nobody/nothing", "dataset_kwargs": None}, "benchmark.no_data"),
        ({"task": ["arc_easy"]}, "benchmark.group"),
    ],
)
def test_what_cannot_be_scored_is_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    assert refused(choice_task(tmp_path, "mine", **changes)) == code


def test_tasks_of_the_library_are_found_by_name() -> None:
    assert refused("arc_eazy") == "benchmark.unknown"
    assert refused("mmlu") == "benchmark.group"
    assert refused("humaneval") == "benchmark.code"
    assert refused("arc_easy") == "benchmark.no_data"  # offline, and not in the cache


def test_the_fingerprint_is_of_task_and_items(tmp_path: Path) -> None:
    file = choice_task(tmp_path)
    first = load(file)[0].fingerprint
    assert load(file)[0].fingerprint == first
    assert load(file, limit=5)[0].fingerprint != first
    assert load(choice_task(tmp_path, doc_to_text="Q: {{question}}"))[0].fingerprint != first


def test_settings_are_checked_before_a_worker_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def code(**values: Any) -> str:
        with pytest.raises(UserError) as caught:
            resolve(Preset("mine", {f"evaluation.{key}": value for key, value in values.items()}))
        return caught.value.code

    assert code(benchmarks=["a", "a"]) == "preset.duplicate_benchmark"
    assert code(benchmarks=[" "]) == "preset.empty_value"
    assert code(benchmark_limit=3) == code(benchmarks=["a"], when="never") == "preset.unread_benchmark"
    with pytest.raises(UserError) as caught:
        check(scored_on(str(tmp_path / "none.yaml")))
    assert caught.value.code == "benchmark.file_not_found" and caught.value.location.endswith("none.yaml")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        check(scored_on("arc_easy"))
    assert caught.value.code == "benchmark.not_installed" and "'ftbench[benchmarks]'" in caught.value.hint
    check(schema.Config())


def test_the_limit_of_benchmarks_is_part_of_the_identity_where_it_is_set() -> None:
    assert "evaluation.benchmark_limit" not in relevant_settings(schema.Config())
    chosen = relevant_settings(scored_on("a", limit=3))
    assert chosen["evaluation.benchmarks"] == ["a"] and chosen["evaluation.benchmark_limit"] == 3


def test_a_timing_probe_has_no_benchmarks() -> None:
    assert probe_config(scored_on("a", limit=3), "cpu") == probe_config(schema.Config(), "cpu")


def test_a_task_file_is_found_from_another_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = choice_task(tmp_path)
    monkeypatch.chdir(tmp_path)
    effective = resolve_preset("demo", None, {"evaluation.benchmarks": [file.name, "arc_easy"]})
    assert settings_of(effective.config).benchmarks == [str(file), "arc_easy"]


def test_an_invalid_task_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    file = choice_task(tmp_path, test_split="nope")
    done = ftbench("run", "demo", *MICRO, *ON_SMALL, "--set", f'evaluation.benchmarks=["{file}"]')
    assert done.returncode == 2 and "invalid task" in done.stderr
    assert "model:" not in done.stdout and not list((tmp_path / "runs").iterdir())  # a refused run is deleted


def test_a_run_is_scored_before_and_after_training_and_a_resumed_one_keeps_the_scores_it_has(tmp_path: Path) -> None:
    files = [choice_task(tmp_path), generation_task(tmp_path)]
    setting = "evaluation.benchmarks=" + json.dumps([str(file) for file in files])
    settings = [*MICRO, *ON_SMALL, "--set", setting, "--set", "evaluation.benchmark_limit=12"]
    assert ftbench("run", "demo", "--method", "lora", "--detach", *settings).returncode == 0
    run = only_run(tmp_path)
    first = run / "benchmarks" / "colors.before.json"
    wait_until(first.exists)
    stop(RunDir(run))
    before = first.stat().st_ino
    done = ftbench("resume", run.name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark colors: acc" in done.stdout and "12 items" in done.stdout
    assert first.stat().st_ino == before
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished" and list(result["benchmarks"]) == ["colors", "spelled"]
    for name, scores in result["benchmarks"].items():
        stored = json.loads((run / "benchmarks" / f"{name}.after.json").read_text())
        assert len(stored["items"]) == scores["before"]["rows"] == scores["after"]["rows"] == 12
        assert stored["score"] == scores["after"]
        assert result["fingerprints"][f"benchmark {name}"] == stored["fingerprint"]
