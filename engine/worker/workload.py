"""Describe the workload of a configuration without training: sizes and fingerprints of data and model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.config.schema import Config
from engine.data.items import EvaluationItem, sampled
from engine.data.prepare import prepare
from engine.data.prepared import Prepared
from engine.evaluation.benchmarks.tasks import Benchmark, load_benchmarks
from engine.evaluation.preflight import refuse_rows
from engine.evaluation.score import general_rows
from engine.methods.machine import this_machine
from engine.methods.model_source import config_of, load_tokenizer
from engine.methods.provenance import fingerprint, items_fingerprint, machine_facts, versions
from engine.runs.run.result import benchmark_fingerprint
from engine.training.batches import BatchSampler
from engine.worker.early_checks import refuse_model


def describe_workload(config: Config) -> dict[str, Any]:
    """Rows and tokens per split, steps, fingerprints, library versions and machine, as JSON types.

    Raises UserError if a run with this configuration would refuse the data or the model.
    """
    tokenizer = load_tokenizer(config.model)
    rows = prepare(config.data, config.train.max_length, tokenizer)
    refuse_rows(config, rows)
    refuse_model(config, config_of(config.model), this_machine())
    general, _ = general_rows(config, tokenizer)
    benchmarks = load_benchmarks(config.evaluation)
    test = sampled(rows.test_items, config.evaluation.rows)
    train = config.train
    sampler = BatchSampler.of(len(rows.train), train.batch, train.epochs, train.steps, train.seed)
    return {
        "work": {
            "model": config.model.id,
            "data": config.data.id,
            "train": len(rows.train),
            "validation": len(rows.validation),
            "test": len(test),
            "tokens": int(rows.train.lengths.sum()),
            "answer_tokens": int(rows.train.answer_tokens.sum()),
            "steps": sampler.steps,
            "batch": train.batch,
            "metric": config.evaluation.metric,
            "overlap": rows.about["overlap"],
            "columns": rows.about["columns"],
            "data_usage": rows.about["data_usage"],
            "fingerprints": _fingerprints(config, rows, test, general, benchmarks),
        },
        "versions": versions(),
        "machine": machine_facts(this_machine()),
        "warnings": [{"code": notice.code, "text": notice.text} for notice in rows.warnings],
    }


def _fingerprints(
    config: Config, rows: Prepared, test: Sequence[EvaluationItem], general: str, benchmarks: Sequence[Benchmark]
) -> dict[str, str]:
    """Fingerprints of everything that is trained on and scored; `general`: the name of the general text, or ''."""
    return {
        "data": rows.fingerprint,
        "test": items_fingerprint(test),
        "model": fingerprint(config.model, config_of(config.model)),
        **({"general": general} if general else {}),
        **{benchmark_fingerprint(one.name): one.fingerprint for one in benchmarks},
    }
