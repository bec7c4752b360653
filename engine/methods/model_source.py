"""Find a model by its id, refuse unsafe or incomplete folders, and read its configuration and tokenizer.

Imports no torch, and transformers only to read configuration and tokenizer.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.config import schema
from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.files import read_small
from engine.config.model_config import impossible_value
from engine.config.model_files import (
    EMBEDDED,
    MAX_CONFIG_BYTES,
    check_model_files,
    impossible_model_error,
    model_place,
    read_model_config,
)
from engine.methods.weight_files import check_safetensors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_REFUSED_TEXT = re.compile(r"access a gated repo|\b40[13] Client Error|Access to model \S+ is restricted")
"""Texts of huggingface_hub and transformers where the response is not kept."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class ModelLocation:
    """Location of a model: a folder, or a Hub id to download."""

    source: str
    is_folder: bool
    revision: str | None = None
    note: str = ""


def locate(model: schema.Model) -> ModelLocation:
    """Resolve `model.id` for loading. Raises UserError for a folder or file that cannot be loaded."""
    place = model_place(model)
    if place.kind == "hub":
        return ModelLocation(place.hub, False, model.revision)
    if place.kind == "gguf" and place.path:
        if not place.path.exists():
            raise UserError("file not found", model.id, "check model.id", code="model.not_found")
        from engine.methods.weight_files import gguf_to_folder  # imports torch

        return ModelLocation(str(gguf_to_folder(place.path)), True, note=f"dequantized from {place.path.name}")
    if place.path is None:
        known = ", ".join([EMBEDDED, *CATALOG])
        hint = f"use a folder, a .gguf file, a Hub id owner/name, or one of {known}"
        raise UserError("model not found", model.id, hint, code="model.not_found")
    check_model_files(place.path)
    if model.id in CATALOG:
        return ModelLocation(str(place.path), True, note=_provenance(place.path))
    if model.id != EMBEDDED:
        _check_folder(place.path)
    return ModelLocation(str(place.path), True)


def _check_folder(folder: Path) -> None:
    location = str(folder)
    if not (folder / "config.json").exists():
        _refuse_adapter(folder)
    config = read_model_config(folder)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        hint = "copy tokenizer.json and tokenizer_config.json into the folder"
        raise UserError("missing tokenizer in this model folder", location, hint, code="model.no_tokenizer")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickles:
            problem = f"only pickled weights ({pickles[0]}), which can execute code when loaded"
            raise UserError(
                problem, location, "convert them to safetensors if you trust the source", code="model.pickled"
            )
        raise UserError("missing weights in this model folder", location, "add *.safetensors", code="model.no_weights")
    for path in sorted(folder.glob("*.safetensors")):
        check_safetensors(path, is_quantized="quantization_config" in config)


def _refuse_adapter(folder: Path) -> None:
    """Raise UserError for a PEFT adapter folder, naming the base model that its configuration gives."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    try:
        base = json.loads(read_small(path, MAX_CONFIG_BYTES)).get("base_model_name_or_path")
    except (ValueError, AttributeError, RecursionError, OSError):
        base = None
    problem = "an adapter, not a model" + (f"; its base model is {base}" if base else "")
    hint = f"use `--model {base if isinstance(base, str) else 'BASE_MODEL'}`, or the folder of the merged model"
    raise UserError(problem, str(folder), hint, code="model.adapter_folder")


LOAD_ERRORS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError),
    *(ImportError, NotImplementedError, AssertionError),
)
"""What transformers raises for files with values of wrong types, names and sizes."""


def load_error(located: ModelLocation, part: str, error: Exception) -> UserError:
    """Translate an exception of `from_pretrained` for `part` (model, tokenizer, configuration) into a UserError."""
    text = " ".join(str(error).split())
    location = located.source
    if "trust_remote_code" in text or "custom code" in text or "auto_map" in text:
        problem = f"the {part} requires remote code"
        hint = "use a model that transformers supports without trust_remote_code"
        return UserError(problem, location, hint, code="model.remote_code")
    if "does not recognize this architecture" in text or "Unrecognized configuration class" in text:
        problem = f"transformers does not support this architecture as a causal LM ({text.split('. ')[0][:200]})"
        return UserError(
            problem, location, "update transformers or use another model", code="model.unsupported_architecture"
        )
    refusal = "" if located.is_folder else refused_as(error)
    if refusal == "gated":
        hint = f"accept its license at https://huggingface.co/{location}, then `hf auth login` or set HF_TOKEN"
        return UserError("gated Hub model, or one that HF_TOKEN may not read", location, hint, code="model.gated")
    if refusal == "not_found":
        hint = "check the name; for a private model set HF_TOKEN to a token that may read it"
        return UserError("no such model on the Hub, or a private one", location, hint, code="model.not_found")
    if not located.is_folder and ("connect" in text.lower() or "offline" in text.lower() or "couldn't" in text.lower()):
        hint = "run `ftbench pull` with network access, or use a folder"
        return UserError("model not on this machine and the Hub is unreachable", location, hint, code="model.offline")
    return UserError(
        f"cannot load the {part}: {text[:300]}", location, "check model.id", code=f"model.{part}_unloadable"
    )


def refused_as(error: BaseException | None) -> Literal["gated", "not_found", ""]:
    """How the Hub refused a download, "" if it did not. transformers keeps the Hub's response as cause.

    To a request without a token the Hub answers 401 for gated, private and missing models, and names which in the
    header X-Error-Code (`hf_raise_for_status` of huggingface_hub).
    """
    while error is not None:
        response: Any = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        if status is not None:
            name = response.headers.get("X-Error-Code")
            if name == "RepoNotFound":
                return "not_found"
            return "gated" if name == "GatedRepo" or status in (401, 403) else ""
        if _REFUSED_TEXT.search(str(error)):
            return "gated"
        error = error.__cause__ or error.__context__
    return ""


def _provenance(folder: Path) -> str:
    note = folder / "SOURCE.txt"
    return read_small(note).decode("utf-8", "replace").strip() if note.exists() else ""


def config_of(model: schema.Model) -> Any:
    """The transformers configuration of a model. Raises UserError if transformers cannot read it."""
    return config_at(locate(model))


def config_at(located: ModelLocation) -> Any:
    """The configuration of a located model. Raises UserError also for impossible shapes."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(located.source, revision=located.revision, trust_remote_code=False)
    except Exception as error:
        raise load_error(located, "configuration", error) from error
    if fault := impossible_value(config.to_dict()):
        raise impossible_model_error(fault, located.source)
    return config


def maximum_positions(config: Any) -> int | None:
    """Maximum sequence length of the model (`max_position_embeddings`), None if the configuration does not give it."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def load_tokenizer(model: schema.Model, located: ModelLocation | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer with a pad token and the chat template of `model.chat_template`, else its own, with the
    default for `enable_thinking` that the model section has.

    `located`: the result of `locate`, if already known. Raises UserError if the tokenizer cannot be loaded or has no
    EOS token, and if `model.chat_template` is unknown or invalid Jinja.
    """
    from transformers import AutoTokenizer

    from engine.data.chat_template import render_in_child, template_text, with_thinking  # imports jinja2

    located = located or locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(located.source, revision=located.revision, trust_remote_code=False)
    except Exception as error:
        raise load_error(located, "tokenizer", error) from error
    if tokenizer.eos_token_id is None:
        problem, hint = "tokenizer without an end-of-sequence token", "set eos_token in its tokenizer_config.json"
        raise UserError(problem, model.id, hint, code="model.no_eos_token")
    if model.chat_template:
        tokenizer.chat_template, tokenizer.chat_template_name = template_text(model.chat_template, tokenizer)
        render_in_child(tokenizer, lambda template: None)  # raises UserError for invalid Jinja
    template, thinking = tokenizer.chat_template, model.enable_thinking
    if isinstance(template, dict):  # several templates by name
        tokenizer.chat_template = {name: with_thinking(text, thinking) for name, text in template.items()}
    elif template:
        tokenizer.chat_template = with_thinking(template, thinking)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer
