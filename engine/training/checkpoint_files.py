"""Write the large files of a checkpoint, hashed while they are written, and load weights without a second copy of them.

safetensors and torch have no writer that hashes. `torch.save` accepts a file object; `safetensors.torch.save_file` does
not, and `save` returns a copy of all tensors, so the format, a length, a JSON header and the tensors' bytes
(github.com/huggingface/safetensors, README, "Format"), is written here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from engine.training.checkpoints import FileFacts

CHUNK = 1 << 20
"""Bytes that are hashed and then written: few enough to be in the CPU's cache for both."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of data types in safetensors."""


class HashingFile:
    """A new file that is hashed while it is written; closing it flushes it to disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._digest, self._bytes = hashlib.sha256(), 0
        self.error: OSError | None = None
        """The first error of writing; torch's archive writer raises another error instead."""

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer. Raises OSError."""
        whole = memoryview(data).cast("B")
        try:
            for start in range(0, len(whole), CHUNK):
                part = whole[start : start + CHUNK]
                self._digest.update(part)
                while part:
                    part = part[self._file.write(part) :]
        except OSError as error:
            self.error = self.error or error
            raise
        self._bytes += len(whole)
        return len(whole)

    def flush(self) -> None:
        """Nothing is buffered; `torch.save` calls it."""

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    @property
    def facts(self) -> FileFacts:
        return FileFacts(self._bytes, self._digest.hexdigest())


def write_pickle(path: Path, content: Any) -> FileFacts:
    """`torch.save` to a new file. Raises OSError."""
    with HashingFile(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise file.error or error from None
    return file.facts


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileFacts:
    """Write tensors to a new file in the safetensors format, one at a time. Raises OSError."""
    # As safetensors does: the largest elements first, so that every tensor is aligned to its own.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with HashingFile(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return file.facts


def write_configuration(model: Any, folder: Path) -> None:
    """Write the configuration of a transformers model, so that `from_pretrained` can load the checkpoint."""
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def stored_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that a model stores; of tied ones only the first."""
    found: dict[str, torch.Tensor] = {}
    seen = set()
    for name, tensor in model.state_dict().items():
        where = _place(tensor)
        if tensor.numel() == 0 or where not in seen:
            found[name] = tensor
        seen.add(where)
    return found


@torch.no_grad()
def load_safetensors(model: torch.nn.Module, path: Path) -> None:
    """Copy the tensors of a safetensors file into a model's, one at a time.

    Raises KeyError if it has other tensors than `stored_tensors`, ValueError if their shapes or data types differ.
    """
    own = model.state_dict()
    with safe_open(path, "pt") as file:
        stored = set(file.keys())
        if unknown := sorted(stored - own.keys()):
            raise KeyError(f"{path.name} has {unknown[0]}, and the model does not")
        loaded = {_place(own[name]) for name in stored}
        if missing := [name for name, tensor in own.items() if name not in stored and _place(tensor) not in loaded]:
            raise KeyError(f"{path.name} lacks {missing[0]}")
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
                found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, own[name]))
                raise ValueError(f"{name} in {path.name} is {found}, in the model {wanted}")
            own[name].copy_(tensor)


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for tied tensors only."""
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype
