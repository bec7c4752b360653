"""Convert a .gguf file to an unquantized model folder in the user's cache: safetensors, config and tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from engine.config.errors import UserError
from engine.config.files import file_sha256, temporary_folder
from engine.config.home import cache_folder
from engine.config.model_limits import impossible_value
from engine.methods.weight_files import check_gguf


def gguf_to_folder(file: Path, folder: Path | None = None, source: str = "") -> Path:
    """Dequantize to bf16 once; later calls reuse the folder. Raises UserError if the file is not a readable GGUF.

    A model that `from_pretrained` dequantized keeps its `quantization_config`, which makes `save_pretrained` fail, so
    the weights are copied to a model created from the configuration without that entry.
    """
    weights = check_gguf(file)
    if folder is None:
        folder = cache_folder() / "gguf" / file_sha256(file)[:16]
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with temporary_folder(f".{folder.name}-", folder.parent) as temporary:
            _convert(file, weights, temporary)
            (temporary / "SOURCE.txt").write_text(source or f"dequantized from {file.name}", "utf-8")
            temporary.replace(folder)
    except Exception as error:
        what = f"cannot convert the GGUF file: {' '.join(str(error).split())[:300]}"
        raise UserError(what, str(file), "try another .gguf of the model", code="model.gguf_unreadable") from error
    return folder


def _convert(file: Path, weights: int, folder: Path) -> None:
    """Raises ValueError where the file lacks weights of the model that it describes: they would be random."""
    shape = AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
    if fault := impossible_value(shape.to_dict()):
        raise ValueError(fault)
    with torch.device("meta"):
        described = AutoModelForCausalLM.from_config(shape)
    wanted = described.num_parameters() - described.get_input_embeddings().weight.numel()  # may be tied to the head
    if weights < wanted:
        raise ValueError(f"the model needs at least {wanted:,} weights, and {weights:,} are in the file")
    loaded = AutoModelForCausalLM.from_pretrained(str(file.parent), gguf_file=file.name, dtype=torch.bfloat16)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(loaded.state_dict())
    plain.tie_weights()
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name).save_pretrained(folder)
