"""Libraries imported in less time are the same libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import transformers.models

from engine.config import schema
from engine.data.prepare import prepare
from engine.methods.tokenizer import load_tokenizer

COUNT_FILES = """
import collections, sys
opened = collections.Counter()
def count(event, arguments):
    if event == "open" and "/transformers/models/" in str(arguments[0]) and str(arguments[0]).endswith(".py"):
        opened[arguments[0]] += 1
sys.addaudithook(count)
"""
"""Counts how often each file of a transformers model is opened; imports read bytecode instead."""


def run(code: str) -> Any:
    """What a new process prints as JSON."""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("function", ["import_libraries", "import_without_torch"])
def test_all_models_have_their_names_and_each_file_is_read_once(function: str) -> None:
    found = run(
        f"{COUNT_FILES}from engine.methods.quick_import import {function}\n{function}()\n"
        "import json, transformers.models\n"
        "print(json.dumps([dir(transformers.models), len(opened), sum(times > 1 for times in opened.values())]))"
    )
    names, files, again = found
    assert names == dir(transformers.models) and "LlamaForCausalLM" in names
    assert files > 1000 and again < 100  # those of models whose own package is imported


def test_without_torch_rows_get_the_tokens_of_a_run() -> None:
    fingerprint, torch_free = run(
        "import json, sys\nfrom engine.methods.quick_import import import_without_torch\nimport_without_torch()\n"
        "from engine.config import schema\nfrom engine.data.prepare import prepare\n"
        "from engine.methods.tokenizer import load_tokenizer\nfrom engine.evaluation.preflight import preflight\n"
        "rows = prepare(schema.Data(), 512, load_tokenizer(schema.Model()))\n"
        "splits = {'train': rows.train, 'validation': rows.validation, 'test': rows.test}\n"
        "assert preflight(schema.Model(), 512, schema.Evaluation(), splits) is None\n"
        "print(json.dumps([rows.fingerprint, 'torch' not in sys.modules]))"
    )
    assert torch_free
    assert fingerprint == prepare(schema.Data(), 512, load_tokenizer(schema.Model())).fingerprint
