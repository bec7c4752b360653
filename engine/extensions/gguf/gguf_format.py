"""The export format of `--to gguf`, without torch."""

from __future__ import annotations

from engine.runs.run.export_formats import ExportFormat

FORMAT = ExportFormat(
    noun="GGUF",
    contents="llama.cpp and Ollama",
    default="q4_k_m",
    types=("bf16", "f16", "q8_0", "q4_k_m"),
    own_types=("q8_0", "q4_k_m"),
    weights="*.gguf",
    module="engine.extensions.gguf.gguf_export",
    needs_tools=True,
)
