"""The outcome of a check, its record on disk, and its text."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from message_parts import figures

from engine.config.errors import Notice, UserError
from engine.config.files import locked_folder
from engine.config.metric_specs import metric_spec
from engine.runs.run.exports import (
    FIDELITY,
    ITEM_SCORES,
    Artifact,
    Fidelity,
    MergeCandidate,
    artifact_words,
    exports,
    fidelity_outcome,
    parse_artifact,
    read_fidelity,
    read_item_scores,
    remove_unfinished,
)
from engine.runs.run.result import Interval
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import base_fact, fidelity_facts, outcome_sentence

EXACT, LOSS = metric_spec("exact_match"), metric_spec("loss")


def interval(low: float | None, high: float | None, rows: int = 100) -> Interval:
    mean = None if low is None or high is None else (low + high) / 2
    return Interval(mean=mean, low=low, high=high, rows=rows)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.0, 0.0, "pass"),
        (-0.02, 0.05, "pass"),
        (-0.021, 0.05, "undecided"),
        (-0.2, -0.02, "undecided"),
        (-0.2, -0.021, "worse"),
        (0.1, 0.2, "pass"),
    ],
)
def test_the_outcome_compares_the_interval_with_the_margin(low: float, high: float, outcome: str) -> None:
    assert fidelity_outcome(interval(low, high), EXACT, 0.02, []) == outcome
    assert fidelity_outcome(interval(-high, -low), LOSS, 0.02, []) == outcome  # the same loss of quality
    assert fidelity_outcome(interval(low, high), EXACT, 0.02, [Notice("export.other_base", "x")]) == "worse"


@pytest.mark.parametrize("difference", [None, interval(None, None), interval(-0.5, None)])
def test_without_an_interval_nothing_is_decided(difference: Interval | None) -> None:
    assert fidelity_outcome(difference, EXACT, 0.02, []) == "undecided"


def check(**fields: object) -> Fidelity:
    known = {"run": "r", "kind": "merged", "type": "bf16", "model": "tiny", "metric": "exact_match", "device": "CPU"}
    return msgspec.convert({**known, "margin": 0.02, "outcome": "pass", **fields}, Fidelity)


def test_every_figure_has_a_line() -> None:
    full = check(
        score=interval(0.4, 0.6),
        run_score=interval(0.45, 0.65),
        difference=interval(-0.01, 0.01),
        loss=interval(1.0, 1.2),
        loss_difference=interval(-0.001, 0.003),
        identical=0.97,
        ended=0.99,
        largest_logit_difference=0.25,
        logits_compared=64,
        experts_changed=0.0004,
        logit_difference_with_same_experts=0.03,
        logits_with_same_experts=60,
        bytes=7_000_000,
        tensor_types={"Q4_K": 22, "F32": 9},
        seconds_per_token=0.01,
        candidates=[MergeCandidate(base="original", score=interval(0.4, 0.6), difference=None, kept=True)],
        system_prompt=212,
        warnings=[{"code": "evaluation.slow_choice", "text": "slower"}],
    )
    facts = dict(fidelity_facts(full))
    assert facts["difference"].startswith("0.0 points [−1.0, 1.0], paired ")
    assert facts["tensor types"] == "Q4_K 22, F32 9" and facts["generation"] == "100.0 tokens/s on CPU"
    name, kept = base_fact(full, full.candidates[0])
    assert facts["identical answers"] == "97.0%" and facts[name] == kept and kept.endswith(", kept")
    assert "212 characters" in facts["system prompt"]
    (same_experts,) = [value for name, value in facts.items() if "same experts" in name]
    assert facts["experts chosen"].startswith("<0.1% differ") and figures(same_experts) == ["0.0300", "60"]
    assert facts["warning"] == "slower" and len(facts) == 16


def test_the_sentence_names_the_reason() -> None:
    assert "no scores" in outcome_sentence(check(outcome="undecided"))
    assert "2 points" in outcome_sentence(check(difference=interval(0.0, 0.0)))
    assert "0.02 nats/token" in outcome_sentence(check(metric="loss", difference=interval(0.0, 0.0)))
    defective = check(outcome="worse", defects=[{"code": "c", "text": "other base"}, {"code": "d", "text": "and this"}])
    assert (
        outcome_sentence(defective) == "worse: other base" and dict(fidelity_facts(defective))["defect"] == "and this"
    )


def test_exports_of_a_run_are_listed_by_name_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert list(exports(run)) == []
    for name in ("merged-f16", "adapter", ".half.tmp", "damaged"):
        (tmp_path / "exports" / name).mkdir(parents=True)
        (tmp_path / "exports" / name / FIDELITY).write_bytes(msgspec.json.encode(check(type=name)))
    (tmp_path / "exports" / "damaged" / FIDELITY).write_text("{")
    assert [(folder.name, fidelity.type) for folder, fidelity in exports(run)] == [
        ("adapter", "adapter"),
        ("merged-f16", "merged-f16"),
    ]
    with pytest.raises(UserError) as caught:
        read_fidelity(tmp_path / "exports" / "damaged")
    assert caught.value.code == "export.no_fidelity"


def test_artifacts_have_one_shortest_name_each() -> None:
    words = artifact_words()
    assert len(set(words)) == len(words) == 8 and {"adapter", "merged", "merged-f16", "q8_0", "q4_k_m"} <= set(words)
    for word in words:
        artifact = parse_artifact(word)
        assert artifact.word == word and parse_artifact(artifact.folder) == artifact
    assert parse_artifact("gguf") == Artifact(kind="gguf", type="q4_k_m")
    assert parse_artifact("merged").folder == "merged-bf16" and parse_artifact("q4_k_m").title == "Q4_K_M"
    with pytest.raises(ValueError, match="q9"):
        parse_artifact("q9")


def test_item_scores_are_read_absent_or_damaged(tmp_path: Path) -> None:
    assert read_item_scores(tmp_path) == []
    (tmp_path / ITEM_SCORES).write_text('{"item":0,"nll":1.5,"tokens":3,"scores":{"json":0.5},"later":1}\n')
    (item,) = read_item_scores(tmp_path)
    assert (item.nll, item.tokens, item.weight, item.scores) == (1.5, 3, None, {"json": 0.5})
    (tmp_path / ITEM_SCORES).write_text('{"item":0,')
    with pytest.raises(UserError) as caught:
        read_item_scores(tmp_path)
    assert caught.value.code == "export.no_scores"


def test_what_a_killed_export_left_is_removed_and_a_running_one_stays(tmp_path: Path) -> None:
    left, running, done = (tmp_path / "exports" / name for name in (".merged-bf16.7.tmp", ".adapter.8.tmp", "adapter"))
    for folder in (left, running, done):
        folder.mkdir(parents=True)
    with locked_folder(running):
        remove_unfinished(RunDir(tmp_path))
    assert (left.exists(), running.exists(), done.exists()) == (False, True, True)
