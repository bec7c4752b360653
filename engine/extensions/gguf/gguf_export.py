"""Writes and checks GGUF files (`FormatModule` in `engine/export/format_modules.py`)."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import AutoTokenizer, GenerationConfig

from engine.export.artifact_check import ArtifactCheck, CheckJob, compare_logits, prepare_check
from engine.export.export_source import ExportSource
from engine.export.request import Progress
from engine.extensions.gguf import llama_cpp
from engine.extensions.gguf.gguf_tools import convert, pull_tools, require_tools

__all__ = ["LIBRARY", "TITLE", "USAGE", "check", "merged_type", "pull_tools", "require_tools", "write"]

LIBRARY = "gguf"
TITLE = "A GGUF file of a model fine-tuned from"
USAGE = (
    "```bash\n"
    "ollama create NAME -f FOLDER/Modelfile           # not run by ftbench\n"
    "llama-server -m FOLDER/model.gguf --jinja        # not run; checked with the library of llama.cpp\n"
    "```"
)
UNQUANTIZED = {"q8_0": "bf16", "q4_k_m": "bf16"}
"""Type of the merged weights that a quantized file is made from."""


def merged_type(weights: str) -> str:
    return UNQUANTIZED.get(weights, weights)


def write(run: ExportSource, weights: str, merged: Path, folder: Path, progress: Progress) -> None:
    """Convert a merged model to GGUF, and write Ollama's Modelfile next to it."""
    target = folder / llama_cpp.FILE
    outtype = merged_type(weights)
    progress("converting to GGUF")
    if outtype == weights:
        convert(merged, target, outtype)
    else:
        whole = folder / f".{outtype}.gguf"
        convert(merged, whole, outtype)
        progress(f"quantizing to {weights}")
        llama_cpp.quantize(whole, target, weights)
        whole.unlink()
    tokenizer = AutoTokenizer.from_pretrained(str(merged), trust_remote_code=False)
    ends = GenerationConfig.from_pretrained(str(merged)).eos_token_id
    text = llama_cpp.modelfile(tokenizer, ends if isinstance(ends, list) else [ends], run.system_prompt)
    (folder / "Modelfile").write_text(text, "utf-8")


def check(job: CheckJob, progress: Progress) -> ArtifactCheck:
    """With llama.cpp, on the CPU."""
    prepared = prepare_check(job, progress)
    checked, scored, tokenizer = prepared.checked, prepared.scored, prepared.tokenizer
    folder, evaluation = Path(job.artifact), prepared.frozen.config.evaluation
    checked.device = f"llama.cpp on {os.cpu_count()} CPU cores"
    checked.tensor_types = llama_cpp.tensor_types(folder)
    with llama_cpp.open_gguf(folder, scored, evaluation) as gguf:
        checked.defects += llama_cpp.defects(gguf, tokenizer, scored)
        compare_logits(lambda row: (llama_cpp.row_logits(gguf, row), None), scored, job, checked)
        if scored.items:
            answered = llama_cpp.answer(gguf, tokenizer, scored, evaluation, progress)
            checked.items, answers, checked.seconds = answered
            checked.count(answers, evaluation.max_new_tokens)
    return checked
