"""Write the files of an artifact: weights, configuration, tokenizer with chat template, generation settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from engine.config.model_files import read_model_config
from engine.evaluation.generate import end_tokens
from engine.export.checkpoint import PROCESSOR_FILES, CheckpointFiles, CheckpointMap, base_checkpoint, checkpoint_folder
from engine.export.export_source import ADAPTER_FILES, ExportSource
from engine.export.gguf_tools import convert
from engine.export.llama_cpp import FILE, modelfile, quantize
from engine.export.merged import (
    DTYPES,
    AdapterWeights,
    DequantizedWeights,
    FullWeights,
    Merge,
    TrainedWeights,
    plain_model,
    write_weights,
)
from engine.methods import method
from engine.methods.machine import this_machine
from engine.methods.model_source import config_of, locate
from engine.runs.run.exports import MergeBase, WeightType

Progress = Callable[..., None]
"""Called with a description and, for countable work, the number done and the total."""
UNQUANTIZED: dict[WeightType, WeightType] = {"q8_0": "bf16", "q4_k_m": "bf16"}
"""Type of the merged weights that a quantized GGUF file is made from."""


def write_common_files(run: ExportSource, folder: Path) -> None:
    """Tokenizer with chat template, and generation settings with every token that ends an answer."""
    AutoTokenizer.from_pretrained(str(run.directory.model), trust_remote_code=False).save_pretrained(folder)
    located = locate(run.base)
    try:
        settings = GenerationConfig.from_pretrained(located.source, revision=located.revision)
    except OSError:  # the base has none
        settings = GenerationConfig()
    ends = set(end_tokens(run.tokenizer, None, run.scored.rows.train))
    own = settings.eos_token_id
    ends |= set(own if isinstance(own, list) else [] if own is None else [own])
    settings.eos_token_id = sorted(ends) if len(ends) > 1 else next(iter(ends))
    if settings.pad_token_id is None:
        settings.pad_token_id = run.tokenizer.pad_token_id
    settings.save_pretrained(folder)


def write_adapter(run: ExportSource, folder: Path) -> None:
    """The adapter as PEFT stores it, naming its base by id and revision, or by the absolute path of a local folder."""
    for name in ADAPTER_FILES:
        shutil.copyfile(run.directory.model / name, folder / name)
    path = folder / ADAPTER_FILES[1]
    config = json.loads(path.read_text("utf-8"))
    located = locate(run.base)
    config["base_model_name_or_path"], config["revision"] = located.source, located.revision
    path.write_text(json.dumps(config, indent=2), "utf-8")


def write_merged(run: ExportSource, dtype: WeightType, folder: Path, base: MergeBase, progress: Progress) -> list[str]:
    """The merged weights, and the configuration and processor files of the base.

    Returns the tensors that were copied because the class of the trained model does not load them.
    """
    plain = plain_model(config_of(run.base))
    checkpoint = base_checkpoint(run.base, plain)
    if run.spec.trains_weights:
        trained: TrainedWeights = FullWeights(CheckpointMap(plain, CheckpointFiles(run.directory.model)))
    elif base == "dequantized":
        progress("dequantizing the base")
        quantized = method(run.spec.name).load(run.frozen.config, this_machine())
        trained = AdapterWeights(plain, run.directory.model, DequantizedWeights(quantized))
    else:
        trained = AdapterWeights(plain, run.directory.model)
    write_weights(Merge(checkpoint, trained, DTYPES[dtype]), folder, progress)
    write_model_config(checkpoint_folder(locate(run.base)), plain, DTYPES[dtype], folder)
    return checkpoint.unused


def write_model_config(base: Path, plain: Any, dtype: torch.dtype, folder: Path) -> None:
    """The base's config.json with the type of the written weights, and its processor files.

    It is not written by transformers, which would leave out keys that it does not know, but other libraries may.
    """
    config = read_model_config(base)
    config.pop("quantization_config", None)  # the weights are written dequantized
    config.setdefault("architectures", [type(plain).__name__])
    config.setdefault("dtype", "")
    for part in [config, *(value for value in config.values() if isinstance(value, dict))]:
        for key in {"dtype", "torch_dtype"} & part.keys():  # `torch_dtype` before transformers 4.56
            part[key] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for name in PROCESSOR_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)


def write_gguf(run: ExportSource, dtype: WeightType, merged: Path, folder: Path, progress: Progress) -> None:
    """Convert a merged model to GGUF, and write Ollama's Modelfile next to it."""
    target = folder / FILE
    outtype = UNQUANTIZED.get(dtype, dtype)
    progress("converting to GGUF")
    if outtype == dtype:
        convert(merged, target, outtype)
    else:
        whole = folder / f".{outtype}.gguf"
        convert(merged, whole, outtype)
        progress(f"quantizing to {dtype}")
        quantize(whole, target, dtype)
        whole.unlink()
    tokenizer = AutoTokenizer.from_pretrained(str(merged), trust_remote_code=False)
    ends = GenerationConfig.from_pretrained(str(merged)).eos_token_id
    text = modelfile(tokenizer, ends if isinstance(ends, list) else [ends], run.system_prompt)
    (folder / "Modelfile").write_text(text, "utf-8")
