"""The JSON report of a data check, for tests that display it."""

from __future__ import annotations

from typing import Any

REPORT: dict[str, Any] = {
    "source": "mails.csv: train 4,200 rows",
    "files": {"train": ["mails.csv"]},
    "notes": [],
    "format": "prompt-completion",
    "why": "columns question, answer: prompt-completion (question -> prompt, answer -> completion)",
    "template": "the tokenizer's chat template",
    "split": ["test: 420 rows held out of training by prompt"],
    "columns": [
        {"name": "topic", "rows": 4198, "role": "ignored", "examples": ["refund", "delivery", "x" * 60]},
        {"name": "answer", "rows": 4193, "role": "answer", "examples": ["On its way.", "Refunded."]},
        {"name": "question", "rows": 4200, "role": "prompt", "examples": ["Where is it?"]},
    ],
    "data_usage": {
        "read": 4200,
        "train": 3570,
        "validation": 200,
        "test": 420,
        "test_items": 410,
        "left_out": {
            "data.empty_answer": {
                "rows": 7,
                "reason": "the answer is empty",
                "where": ["mails.csv line 4", "mails.csv line 9", "mails.csv line 12", "mails.csv line 80"],
            },
            "data.max_rows": {"rows": 3, "reason": "not selected by data.max_rows", "where": ["mails.csv line 5"]},
        },
    },
    "overlap": {
        "test/train": {
            "of": 420,
            "prompt": 21,
            "answer": 210,
            "both": 4,
            "near": 42,
            "where": [["mails.csv line 8", "mails.csv line 17"]],
        },
        "validation/train": {"of": 200, "prompt": 0, "answer": 3, "both": 0, "near": None, "near_reason": "too large"},
    },
    "rows": {"train": 3570, "validation": 200, "test": 420},
    "tokens": {"train": 136_516, "validation": 9_000, "test": 20_000},
    "loss_tokens": {"train": 58_485, "validation": 4_000, "test": 9_000},
    "cut": {"train": 3, "validation": 0, "test": 0},
    "lengths": {
        "train": {
            "tokens": {"p5": 20, "p50": 85, "p90": 103, "p99": 117, "max": 1200},
            "answer": {"p5": 5, "p50": 30, "p90": 40, "p99": 42, "max": 43},
            "answers_cut": 0.0008,
        }
    },
    "max_length": 512,
    "metric": "exact_match",
    "metric_reason": "answers are labels",
    "duplicates": {"rows": 12, "where": [["mails.csv line 1", "mails.csv line 2"]]},
    "conflicting_labels": {"rows": 0, "where": []},
    "multiple_references": {"rows": 9, "where": [["mails.csv line 3", "mails.csv line 6"]]},
    "fingerprint": "8770" * 16,
    "warnings": [
        {"code": "data.ignored_column", "text": 'column topic is ignored: "refund", "delivery", "other"'},
        {"code": "data.rows_left_out", "text": "7 train rows left out: the answer is empty"},
    ],
    "refused": None,
}
"""The sum equals the rows read: 3570 + 200 + 420 + 7 + 3 = 4200."""
