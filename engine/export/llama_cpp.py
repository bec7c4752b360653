"""Run a GGUF file with llama.cpp on token ids: greedy answers, logits, and quantization.

Uses the C interface through the bindings in the tools' folder; sampling and chat handling of the bindings are not used.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from engine.config.errors import RunFailed
from engine.export.gguf_tools import LIBRARY, require_tools

FILE_TYPES = {"q4_k_m": 15, "q8_0": 7}
"""`llama_ftype` in llama.h."""


def _bindings() -> tuple[Any, Any]:
    """(the C library, the foreign function interface)."""
    folder = str(require_tools() / LIBRARY.folder)
    if folder not in sys.path:
        sys.path.append(folder)
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib  # only on the path that was just set

    library = get_lib()
    library.llama_backend_init()
    return library, get_ffi()


def quantize(source: Path, target: Path, kind: str) -> None:
    """Quantize a GGUF file with 16-bit weights. Raises RunFailed if llama.cpp reports an error."""
    library, ffi = _bindings()
    settings = ffi.new("llama_model_quantize_params *", library.llama_model_quantize_default_params())
    settings.ftype = FILE_TYPES[kind]
    settings.nthread = len(os.sched_getaffinity(0))
    status = library.llama_model_quantize(os.fsencode(source), os.fsencode(target), settings)
    if status:
        raise RunFailed(f"llama.cpp could not quantize to {kind} (status {status})", "export.gguf_quantization_failed")


class LlamaCpp:
    """A loaded GGUF file with one sequence. Use as a context manager."""

    def __init__(self, file: Path, context: int) -> None:
        """context: tokens of the longest sequence. Raises RunFailed if llama.cpp cannot load the file."""
        self.library, self.ffi = _bindings()
        self.context = context
        settings = self.library.llama_model_default_params()
        settings.n_gpu_layers = 0
        self._model = self.library.llama_model_load_from_file(os.fsencode(file), settings)
        if self._model == self.ffi.NULL:
            raise RunFailed(f"llama.cpp cannot load {file.name}", "export.gguf_unreadable")
        options = self.library.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = context
        options.n_threads = options.n_threads_batch = len(os.sched_getaffinity(0))
        self._context = self.library.llama_init_from_model(self._model, options)
        if self._context == self.ffi.NULL:
            raise RunFailed("llama.cpp cannot create a context", "export.gguf_unreadable")
        self._vocabulary = self.library.llama_model_get_vocab(self._model)
        self.vocabulary_size = int(self.library.llama_vocab_n_tokens(self._vocabulary))

    def __enter__(self) -> LlamaCpp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.library.llama_free(self._context)
        self.library.llama_model_free(self._model)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text with special tokens in it, none added."""
        encoded = text.encode()
        tokens = self.ffi.new("llama_token[]", len(encoded) + 16)
        count = self.library.llama_tokenize(
            self._vocabulary, encoded, len(encoded), tokens, len(encoded) + 16, False, True
        )
        return [int(tokens[place]) for place in range(count)]

    def ends_generation(self, token: int) -> bool:
        """Whether llama.cpp stops at this token by itself."""
        return bool(self.library.llama_vocab_is_eog(self._vocabulary, token))

    def chat_template(self) -> str:
        """The chat template in the file; '' without one."""
        found = self.library.llama_model_chat_template(self._model, self.ffi.NULL)
        return "" if found == self.ffi.NULL else self.ffi.string(found).decode()

    def logits(self, tokens: Sequence[int], places: Sequence[int]) -> torch.Tensor:
        """(len(places), V): logits after the tokens at these places of a sequence, in float32."""
        self._clear()
        self._decode(tokens, 0, set(places))
        return torch.stack([self._row(place) for place in places])

    def answer(self, prompt: Sequence[int], ends: frozenset[int], max_new_tokens: int) -> list[int]:
        """The greedy answer without its end token."""
        self._clear()
        self._decode(prompt, 0, {len(prompt) - 1})
        answer: list[int] = []
        last = len(prompt) - 1
        while len(answer) < max_new_tokens:
            token = int(self._row(last).argmax())
            if token in ends:
                return answer
            answer.append(token)
            self._decode([token], len(prompt) + len(answer) - 1, {0})
            last = 0
        return answer

    def _clear(self) -> None:
        self.library.llama_memory_clear(self.library.llama_get_memory(self._context), True)

    def _decode(self, tokens: Sequence[int], start: int, wanted: set[int]) -> None:
        batch = self.library.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for place, token in enumerate(tokens):
                batch.token[place], batch.pos[place] = token, start + place
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
                batch.logits[place] = place in wanted
            status = self.library.llama_decode(self._context, batch)
        finally:
            self.library.llama_batch_free(batch)
        if status:
            raise RunFailed(f"llama.cpp could not decode (status {status})", "export.gguf_decode_failed")

    def _row(self, place: int) -> torch.Tensor:
        pointer = self.library.llama_get_logits_ith(self._context, place)
        values = np.frombuffer(self.ffi.buffer(pointer, 4 * self.vocabulary_size), dtype=np.float32)
        return torch.from_numpy(values.copy())
