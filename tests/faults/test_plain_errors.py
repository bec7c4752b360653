"""Errors in a user's files: one line that names the file and says what to do, without Python's messages."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import ftbench

from engine.assets import tiny_folder
from engine.config.errors import system_hint
from engine.config.files import file_sha256, read_regular
from tui.cli.errors import handle_errors

PYTHON = re.compile(
    r"Errno|Traceback|Error\b|Exception|NoneType|\bNone\b|codec|has no attribute|<class|takes \d|argument|"
    r"subscript|callable|unhashable|recursion|set_int_max|line 1 column|\(char |__|indices|isinstance|environment",
    re.ASCII,
)
"""Words of Python's and of libraries' exceptions."""
BROKEN = Path("/proc/self/mem")
"""Regular, and reading its beginning fails with EIO, as on a broken disk."""
Spoil = Callable[[Path], object]


def replaced(name: str, content: str | bytes) -> Spoil:
    return lambda model: (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def broken(name: str) -> Spoil:
    def spoil(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(BROKEN)

    return spoil


def setting(**values: Any) -> Spoil:
    def spoil(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return spoil


def index(table: object) -> Spoil:
    def spoil(model: Path) -> None:
        (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps(table))

    return spoil


DIGITS = '{"a": ' + "1" * 5000 + "}"
DEEP = '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"
CAUSES: dict[str, tuple[Spoil, str]] = {
    "config not JSON": (replaced("config.json", "{"), "config.json"),
    "config not UTF-8": (replaced("config.json", b"\xff\xfe{"), "config.json"),
    "config a list": (replaced("config.json", "[]"), "config.json"),
    "config with a long number": (replaced("config.json", DIGITS), "config.json"),
    "config nested": (replaced("config.json", DEEP), "config.json"),
    "config on a broken disk": (broken("config.json"), "config.json: Input/output error"),
    "config with a list as type": (setting(model_type=["x"]), "model_type"),
    "config with an unknown dtype": (setting(dtype="nonsense"), "dtype"),
    "config with a text as number": (setting(rms_norm_eps="x"), "rms_norm_eps"),
    "config with an unknown activation": (setting(hidden_act="nosuch"), "nosuch"),
    "config with other token ids": (setting(pad_token_id=99_999_999), "m"),
    "config with an end token of text": (setting(eos_token_id="x"), "eos_token_id"),
    "config of other shapes": (setting(num_key_value_heads=3), "m"),
    "tokenizer a list": (replaced("tokenizer.json", "[]"), "tokenizer.json"),
    "tokenizer without a vocabulary": (replaced("tokenizer.json", "{}"), "m"),
    "tokenizer with a long number": (replaced("tokenizer.json", DIGITS), "m"),
    "tokenizer on a broken disk": (broken("tokenizer.json"), "tokenizer.json: Input/output error"),
    "tokenizer settings null": (replaced("tokenizer_config.json", "null"), "tokenizer_config.json"),
    "tokenizer settings on a broken disk": (broken("tokenizer_config.json"), "tokenizer_config.json: Input/output"),
    "generation settings a number": (replaced("generation_config.json", "7"), "generation_config.json"),
    "generation settings on a broken disk": (broken("generation_config.json"), "generation_config.json: Input/output"),
    "index to another folder": (index({"metadata": {}, "weight_map": {"a": "../../etc/passwd"}}), "../../etc/passwd"),
    "index to the root": (index({"metadata": {}, "weight_map": {"a": "/etc/passwd"}}), "/etc/passwd"),
    "index without metadata": (index({"weight_map": {}}), "model.safetensors.index.json"),
    "index a list": (index([1]), "model.safetensors.index.json"),
    "index of missing weights": (index({"metadata": {}, "weight_map": {"a": "b.safetensors"}}), "b.safetensors"),
}
TEMPLATES: dict[str, str | bytes] = {
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'x' as y %}{{ y }}",
    "extends": "{% extends 'x' %}",
    "a call of nothing": "{{ none() }}",
    "a text and a number": "{{ 'a' + 1 }}",
    "division by zero": "{{ 1 / 0 }}",
    "no such message": "{{ messages[99].content }}",
    "not UTF-8": b"{{ '\xe4' }}",
}


def assert_plain(done: Any, *words: str) -> None:
    assert done.returncode in (1, 2), done
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line, line
    assert "; " in line, f"nothing says what to do: {line}"
    assert not (found := PYTHON.search(line)), f"{found.group()!r} in {line}"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"p{n}", "completion": f"c{n}"}) + "\n" for n in range(40)))
    return file


@pytest.mark.parametrize("cause", CAUSES)
def test_files_of_a_model(cause: str, tmp_path: Path, rows: Path) -> None:
    spoil, named = CAUSES[cause]
    model = tmp_path / "m"
    shutil.copytree(tiny_folder(), model)
    spoil(model)
    done = ftbench("run", "demo-lora", "--model", str(model), "--data", str(rows), "--set", "train.probe=false")
    assert_plain(done, named, str(model))
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize("cause", TEMPLATES)
def test_chat_templates(cause: str, tmp_path: Path, rows: Path) -> None:
    template = tmp_path / "mine.jinja"
    text = TEMPLATES[cause]
    template.write_bytes(text if isinstance(text, bytes) else text.encode())
    messages = tmp_path / "messages.jsonl"
    messages.write_text(
        "".join(
            json.dumps({"messages": [{"role": role, "content": f"{role}{n}"} for role in ("user", "assistant")]}) + "\n"
            for n in range(20)
        )
    )
    done = ftbench("data", "check", str(messages), "--set", f"model.chat_template={template}")
    assert_plain(done, str(template))


@pytest.mark.parametrize("name", ["rows.jsonl", "mine.toml"])
def test_a_file_of_the_user_on_a_broken_disk(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(BROKEN)
    options = ["--data", str(tmp_path / name)] if name == "rows.jsonl" else []
    done = ftbench("run", "demo-lora" if options else str(tmp_path / name), *options)
    assert_plain(done, name)


def test_reading_a_broken_file_names_it() -> None:
    for read in (read_regular, file_sha256):
        with pytest.raises(OSError) as raised:
            read(BROKEN)
        assert (raised.value.errno, raised.value.filename) == (errno.EIO, str(BROKEN))


def test_errors_of_the_system_say_what_to_do(capfd: pytest.CaptureFixture[str]) -> None:
    for number in (errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EACCES, errno.EMFILE):

        def fail(number: int = number) -> None:
            raise OSError(number, "text of the system")

        with pytest.raises(SystemExit) as ended:
            handle_errors(fail)
        (line,) = capfd.readouterr().err.splitlines()
        assert ended.value.code == 1 and "text of the system" in line
        assert line.endswith(system_hint(OSError(number, "")))
    with pytest.raises(OSError, match="Bad file"):  # only a mistake of the program causes it
        handle_errors(lambda: read_closed())


def read_closed() -> None:
    raise OSError(errno.EBADF, "Bad file descriptor")
