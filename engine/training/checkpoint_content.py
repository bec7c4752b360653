"""Check that the files of a complete checkpoint can be loaded, without reading their tensors."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

from engine.config.files import read_regular


def unloadable(folder: Path) -> str | None:
    """The first file that cannot be read and why, None if all can. Pickles are opened without executing code."""
    for path in sorted(folder.iterdir()):
        try:
            _open(path, int(folder.name.rpartition("-")[2]))
        except (
            OSError,
            ValueError,
            RuntimeError,
            KeyError,
            TypeError,
            RecursionError,
            EOFError,
            SafetensorError,
            pickle.UnpicklingError,
        ) as error:
            return f"cannot read {path.name}: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return None


def _open(path: Path, step: int) -> None:
    if path.name == "trainer_state.json":
        state = json.loads(read_regular(path))
        if not isinstance(state, dict) or state.get("global_step") != step:
            raise ValueError(f"global_step is not {step}")
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            file.keys()
    elif path.suffix in (".pt", ".pth"):
        with safe_globals():
            torch.load(path, map_location="meta", mmap=True, weights_only=True)
