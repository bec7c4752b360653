"""Find a model by its id, refuse unsafe or incomplete files, and read its configuration and tokenizer.

Imports transformers only to read configuration and tokenizer, and torch only to convert GGUF files. The headers of
weights files are checked before the weights are loaded: the safetensors library checks them itself, the gguf library
allocates what a header announces (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import struct
import sys
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors import SafetensorError, safe_open

from engine.config import schema
from engine.config.catalog import CATALOG
from engine.config.errors import UserError, reason_of, system_cause, system_hint
from engine.config.files import file_sha256, open_regular, read_small, temporary_folder
from engine.config.home import cache_folder
from engine.config.http_client import bound_hub_client
from engine.config.model_files import (
    EMBEDDED,
    MAX_CONFIG_BYTES,
    check_model_files,
    impossible_model_error,
    model_place,
    read_model_config,
)
from engine.config.model_limits import impossible_value
from engine.config.reasoning import with_thinking

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_REFUSED_TEXT = re.compile(r"access a gated repo|\b40[13] Client Error|Access to model \S+ is restricted")
"""Texts of huggingface_hub and transformers where the response is not kept."""
HASHED_BYTES = 1 << 20
"""Bytes that are hashed at each end of a weights file: hashing an 8B model completely takes minutes."""
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
        bound_hub_client()
        return ModelLocation(place.hub, False, model.revision)
    if place.kind == "gguf" and place.path:
        if not place.path.exists():
            raise UserError("file not found", model.id, "check model.id", code="model.not_found")
        return ModelLocation(str(gguf_to_folder(place.path)), True, note=f"dequantized from {place.path.name}")
    if place.path is None:
        known = ", ".join([EMBEDDED, *CATALOG])
        hint = f"use a folder, a .gguf file, a Hub id owner/name, or one of {known}"
        raise UserError("model not found", model.id, hint, code="model.not_found")
    check_model_files(place.path)
    if model.id in CATALOG:
        note = place.path / "SOURCE.txt"
        text = read_small(note).decode("utf-8", "replace").strip() if note.exists() else ""
        return ModelLocation(str(place.path), True, note=text)
    if model.id != EMBEDDED:
        _check_folder(place.path)
    return ModelLocation(str(place.path), True)


def _check_folder(folder: Path) -> None:
    """Raise UserError for an adapter, naming its base model, and for missing or unsafe files."""
    location = str(folder)
    adapter = folder / "adapter_config.json"
    if not (folder / "config.json").exists() and adapter.is_file():
        try:
            base = json.loads(read_small(adapter, MAX_CONFIG_BYTES)).get("base_model_name_or_path")
        except (ValueError, AttributeError, RecursionError, OSError):
            base = None
        problem = "an adapter, not a model" + (f"; its base model is {base}" if base else "")
        hint = f"use `--model {base if isinstance(base, str) else 'BASE_MODEL'}`, or the folder of the merged model"
        raise UserError(problem, location, hint, code="model.adapter_folder")
    config = read_model_config(folder)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        hint = "copy tokenizer.json and tokenizer_config.json into the folder"
        raise UserError("missing tokenizer in this model folder", location, hint, code="model.no_tokenizer")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickles:
            problem = f"only pickled weights ({pickles[0]}), which can execute code when loaded"
            hint = "convert them to safetensors if you trust the source"
            raise UserError(problem, location, hint, code="model.pickled")
        raise UserError("missing weights in this model folder", location, "add *.safetensors", code="model.no_weights")
    for path in weights:
        check_safetensors(path, is_quantized="quantization_config" in config)


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
        hint = "update transformers or use another model"
        return UserError(problem, location, hint, code="model.unsupported_architecture")
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
    refused = system_cause(error)
    if refused is not None and refused.filename:
        location = str(refused.filename)
    hint = system_hint(refused) if refused else ""
    reason = "weights of other shapes than in config.json" if "ignore_mismatched_sizes" in text else reason_of(error)
    problem = f"cannot load the {part}: {reason}"
    hint = hint or f"download the model again, or correct the files of its {part}"
    return UserError(problem, location, hint, code=f"model.{part}_unloadable")


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


def fingerprint(model: schema.Model, config: Any) -> str:
    """Fingerprint of the weights: the Hub commit, or a hash over the folder's files (size and both ends of each).

    `config`: the model's transformers configuration.
    """
    commit = getattr(config, "_commit_hash", None)
    if commit:
        return f"commit {commit}"
    located = locate(model)
    digest = hashlib.sha256()
    for path in sorted(Path(located.source).glob("*")):
        if path.suffix in (".safetensors", ".json"):
            digest.update(f"{path.name} {path.stat().st_size}".encode())
            with open_regular(path, sys.maxsize, follow=True) as file:
                digest.update(file.read(HASHED_BYTES))
                file.seek(max(0, path.stat().st_size - HASHED_BYTES))
                digest.update(file.read(HASHED_BYTES))
    return f"sha256 {digest.hexdigest()}"


def maximum_positions(config: Any) -> int | None:
    """Maximum sequence length of the model (`max_position_embeddings`), None if the configuration does not give it."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def vocabulary_size(config: Any) -> int:
    """Vocabulary size of the model, the last dimension of its logits. `config`: its transformers configuration."""
    size: int = config.get_text_config().vocab_size
    return size


def load_tokenizer(model: schema.Model, located: ModelLocation | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer with a pad token and the chat template of `model.chat_template`, else its own, with the
    default for `enable_thinking` that the model section has.

    `located`: the result of `locate`, if already known. Raises UserError if the tokenizer cannot be loaded or has no
    EOS token, and if `model.chat_template` is unknown or invalid Jinja.
    """
    from transformers import AutoTokenizer

    from engine.data.chat_template import render_in_child, template_text  # imports jinja2

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


INTEGERS = frozenset({"I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"})
"""Types of safetensors."""
GGUF_VERSIONS = (2, 3)
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Size of the values of a GGUF file by type."""
STRING, ARRAY = 8, 9
MAX_KEYS, MAX_TENSORS, MAX_ELEMENTS, MAX_DIMENSIONS = 1 << 16, 1 << 20, 1 << 24, 8
"""A GGUF file of 1,200 tensors has 40 keys; its longest array has an element per token of the vocabulary."""


class _Damaged(ValueError):
    """What is wrong with a file."""


def check_safetensors(path: Path, is_quantized: bool) -> None:
    """Raise UserError where the header does not describe the file, or where weights are integers.

    `is_quantized`: whether config.json says that the weights are quantized: those are stored as integers.
    """
    try:
        with safe_open(path, framework="numpy") as file:  # checks the header, and reads no tensor
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a mapping
        for name, kind in types.items():
            if kind in INTEGERS and name.endswith(".weight") and not is_quantized:
                raise _Damaged(f"{name} has integers ({kind}), and config.json names no quantization")
    except (OSError, SafetensorError, _Damaged) as error:
        problem, hint = f"damaged weights: {error}", "download the model again, or convert it again"
        raise UserError(problem, str(path), hint, code="model.weights_damaged") from error


def check_gguf(path: Path) -> int:
    """The number of weights. Raises UserError if it is not GGUF, or its header announces more than it can contain."""
    try:
        with open_regular(path, sys.maxsize, follow=True) as file:
            return _GgufHeader(file, os.fstat(file.fileno()).st_size).check()
    except (OSError, ValueError, struct.error) as error:
        problem = f"not a readable GGUF file: {error.strerror if isinstance(error, OSError) else error}"
        hint = "check model.id, or download the file again"
        raise UserError(problem, str(path), hint, "model.gguf_unreadable") from error


class _GgufHeader:
    """Walks over keys and tensors without keeping them."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        self.file, self.size, self.order = file, size, "<"

    def check(self) -> int:
        """The number of elements of all tensors."""
        if self._read(4) != b"GGUF":
            raise _Damaged("it does not begin with GGUF")
        version = self._read(4)
        self.order = "<" if version[2:] == b"\0\0" else ">"
        if struct.unpack(f"{self.order}I", version)[0] not in GGUF_VERSIONS:
            raise _Damaged(f"unknown version {version.hex()}")
        tensors, keys = self._count(MAX_TENSORS, 24), self._count(MAX_KEYS, 13)
        for _ in range(keys):
            self._skip(self._count(self.size, 1))
            self._skip_value(self._number("I", 4))
        total = 0
        for _ in range(tensors):
            self._skip(self._count(self.size, 1))
            dimensions = self._number("I", 4)
            if dimensions > MAX_DIMENSIONS:
                raise _Damaged(f"a tensor with {dimensions:,} dimensions")
            elements = math.prod(self._number("Q", 8) for _ in range(dimensions))
            self._number("I", 4)
            if elements > self.size * 8 or self._number("Q", 8) > self.size:  # at least one bit per element
                raise _Damaged("a tensor larger than the file")
            total += elements
        return total

    def _skip_value(self, kind: int, inside: bool = False) -> None:
        if kind in SCALAR_BYTES:
            self._skip(SCALAR_BYTES[kind])
        elif kind == STRING:
            self._skip(self._count(self.size, 1))
        elif kind == ARRAY and not inside:
            of = self._number("I", 4)
            if of in SCALAR_BYTES:
                self._skip(self._count(self.size, SCALAR_BYTES[of]) * SCALAR_BYTES[of])
                return
            for _ in range(self._count(MAX_ELEMENTS, 8)):
                self._skip_value(of, inside=True)
        else:
            raise _Damaged(f"a value of the unknown type {kind}")

    def _number(self, code: str, size: int) -> int:
        value: int = struct.unpack(f"{self.order}{code}", self._read(size))[0]
        return value

    def _count(self, limit: int, width: int) -> int:
        """Read the number of values of at least `width` bytes each. Raises _Damaged if the file cannot contain them."""
        count = self._number("Q", 8)
        if count > limit or count * width > self.size - self.file.tell():
            raise _Damaged(f"a count of {count:,} in a file of {self.size:,} bytes")
        return count

    def _skip(self, size: int) -> None:
        if size > self.size - self.file.tell():
            raise _Damaged(f"a value of {size:,} bytes in a file of {self.size:,}")
        self.file.seek(size, os.SEEK_CUR)

    def _read(self, size: int) -> bytes:
        content = self.file.read(size)
        if len(content) < size:
            raise _Damaged("the file ends too early")
        return content


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
        problem = f"cannot convert the GGUF file: {reason_of(error)}"
        raise UserError(problem, str(file), "try another .gguf of the model", code="model.gguf_unreadable") from error
    return folder


def _convert(file: Path, weights: int, folder: Path) -> None:
    """Raises ValueError where the file lacks weights of the model that it describes: they would be random."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

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
