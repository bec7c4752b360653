"""Check safetensors and GGUF files before they are loaded; convert GGUF files.

The library of safetensors checks a header itself; that of GGUF allocates what a header announces
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). Imports torch only to convert.
"""

from __future__ import annotations

import math
import os
import struct
import sys
from io import BufferedReader
from pathlib import Path

from safetensors import SafetensorError, safe_open

from engine.config.errors import UserError
from engine.config.files import file_sha256, open_regular, temporary_folder
from engine.config.home import cache_folder
from engine.config.model_config import impossible_value

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
        raise UserError(
            problem, str(path), "check model.id, or download the file again", "model.gguf_unreadable"
        ) from error


class _GgufHeader:
    """Walks over keys and tensors without keeping them."""

    def __init__(self, file: BufferedReader, size: int) -> None:
        self.file, self.size, self.order = file, size, "<"

    def check(self) -> int:
        """The number of elements of all tensors."""
        if _read(self.file, 4) != b"GGUF":
            raise _Damaged("it does not begin with GGUF")
        version = _read(self.file, 4)
        self.order = "<" if version[2:] == b"\0\0" else ">"
        if struct.unpack(f"{self.order}I", version)[0] not in GGUF_VERSIONS:
            raise _Damaged(f"unknown version {version.hex()}")
        tensors, keys = self._count(MAX_TENSORS, 24), self._count(MAX_KEYS, 13)
        for _ in range(keys):
            self._skip(self._count(self.size, 1))
            self._skip_value(self._number("I", 4))
        return sum(self._check_tensor() for _ in range(tensors))

    def _check_tensor(self) -> int:
        self._skip(self._count(self.size, 1))
        dimensions = self._number("I", 4)
        if dimensions > MAX_DIMENSIONS:
            raise _Damaged(f"a tensor with {dimensions:,} dimensions")
        elements = math.prod(self._number("Q", 8) for _ in range(dimensions))
        self._number("I", 4)
        if elements > self.size * 8 or self._number("Q", 8) > self.size:  # at least one bit per element
            raise _Damaged("a tensor larger than the file")
        return elements

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
        value: int = struct.unpack(f"{self.order}{code}", _read(self.file, size))[0]
        return value

    def _count(self, limit: int, width: int) -> int:
        """A number of things of at least `each` bytes that the rest of the file can contain."""
        count = self._number("Q", 8)
        if count > limit or count * width > self.size - self.file.tell():
            raise _Damaged(f"a count of {count:,} in a file of {self.size:,} bytes")
        return count

    def _skip(self, size: int) -> None:
        if size > self.size - self.file.tell():
            raise _Damaged(f"a value of {size:,} bytes in a file of {self.size:,}")
        self.file.seek(size, os.SEEK_CUR)


def _read(file: BufferedReader, size: int) -> bytes:
    content = file.read(size)
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
        problem = f"cannot convert the GGUF file: {' '.join(str(error).split())[:300]}"
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
