"""Bad input, through the real command: one line that says what, where and what to do, exit code 2, nothing left."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command import ftbench

from engine.assets import tiny_folder

GOOD = {"prompt": "a", "completion": "b"}


def refused(done, *said: str) -> None:
    """One line on stderr holding all of `said`, and exit code 2."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.strip().removeprefix("ftbench: ") not in done.stdout
    for text in said:
        assert text in done.stderr, done.stderr


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


BAD_FILES: dict[str, tuple[str, bytes | Callable[[], bytes], tuple[str, ...]]] = {
    "empty": ("a.jsonl", b"", ("a.jsonl",)),
    "not utf-8": ("a.jsonl", lines(GOOD, GOOD) + b'{"prompt": "\xff\xfe"}\n', ("line 3", "UTF-8")),
    "truncated": ("a.jsonl", lines(GOOD) + b'{"prompt": "a", "comp', ("line 2",)),
    "mixed types": ("a.jsonl", lines(GOOD, {"prompt": 7, "completion": "b"}), ("line 2",)),
    "not objects": ("a.jsonl", lines(GOOD, [1, 2]), ("line 2",)),
    "deep": ("a.jsonl", lambda: b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", ("line 1",)),
    "60 MB line": ("a.jsonl", lambda: b'{"prompt": "' + b"a" * 60_000_000 + b'"}\n', ("line 1", "MiB")),
    "bomb": ("a.jsonl.gz", lambda: gzip.compress((b" " * 9_999 + b"\n") * 15_000), ("a.jsonl.gz",)),
    "unknown columns": ("a.jsonl", lines({"left": "a", "right": "b"}), ("left", "data.map")),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    file, content, said = BAD_FILES[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content())
    refused(ftbench("run", "demo-lora", "--data", str(path)), *said)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_a_check_that_finds_nothing_to_train_on_fails(how: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD, *[{"prompt": "a", "completion": ""}] * 40))
    done = ftbench("data", "check", str(path), *how)
    assert done.returncode == 2 and "would train on nothing" in done.stdout
    path.write_bytes(lines(*[{"prompt": f"a{n}", "completion": "b"} for n in range(40)]))
    assert ftbench("data", "check", str(path), *how).returncode == 0


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "mails.jsonl").write_bytes(lines(GOOD))
    refused(ftbench("run", "demo-lora", "--data", str(tmp_path / "mail.jsonl")), "not found", "mails.jsonl")
    assert list((tmp_path / "runs").iterdir()) == []


def test_rows_that_would_train_on_nothing_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*({"prompt": f"p{n}", "completion": "x" if n % 2 else ""} for n in range(40))))
    refused(ftbench("run", "demo-lora", "--data", str(path)), "would train on nothing")


def test_a_runs_folder_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for verb in (["runs"], ["report", "last"], ["attach", "x"], ["ladder", "demo"]):
        refused(ftbench(*verb, "--runs", str(file)), "--runs DIR")


BAD_PRESETS = {
    "unknown key": ("[train]\nbach = 8\n", ("line 2", "train.bach", "did you mean train.batch")),
    "out of range": ("[train]\n\nbatch = 0\n", ("line 3", "train.batch")),
    "not one of": ('[train]\nschedule = "cosin"\n', ("line 2", "cosine")),
    "nobody reads": ('method = "full"\n[adapter]\nrank = 8\n', ("line 3", "qlora and lora only")),
    "both": ("[train]\nsteps = 3\nepochs = 2\n", ("train.steps", "train.epochs")),
    "not toml": ("[train\n", ("not TOML",)),
    "not a table": ('data = "x"\n', ("line 1", "[data]")),
    "separator unread": ('[data]\nformat = "messages"\nseparator = "A:"\n', ("line 3", "data.separator")),
}


@pytest.mark.parametrize("name", BAD_PRESETS)
def test_bad_presets(name: str, tmp_path: Path) -> None:
    text, said = BAD_PRESETS[name]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    refused(ftbench("run", str(path)), "mine", *said)
    assert not (tmp_path / "runs").exists()


def test_unknown_preset_and_setting() -> None:
    refused(ftbench("run", "demo-lorra"), "did you mean demo-lora")
    refused(ftbench("run", "demo-lora", "--set", "train.lerning_rate=1"), "did you mean train.learning_rate")
    refused(ftbench("run", "demo-full", "--set", "adapter.rank=4"), "not read by full")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder(), folder)
    return folder


def no_tokenizer(model: Path) -> None:
    for path in model.glob("tokenizer*"):
        path.unlink()


def pickle_only(model: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")


def no_config(model: Path) -> None:
    (model / "config.json").unlink()


def unknown_architecture(model: Path) -> None:
    (model / "config.json").write_text('{"model_type": "nonesuch", "architectures": ["Nonesuch"]}')


def own_code(model: Path) -> None:
    table = json.loads((model / "config.json").read_text())
    table |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (model / "config.json").write_text(json.dumps(table))


def truncated_weights(model: Path) -> None:
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def no_chat_template(model: Path) -> None:
    path = model / "tokenizer_config.json"
    table = json.loads(path.read_text())
    table.pop("chat_template", None)
    path.write_text(json.dumps(table))
    (model / "chat_template.jinja").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (no_tokenizer, "missing tokenizer"),
        (pickle_only, "pickled weights"),
        (no_config, "config.json"),
        (unknown_architecture, "nonesuch"),
        (own_code, "code"),
        (truncated_weights, "cannot load the model"),
        (no_chat_template, "chat template"),
    ],
)
def test_bad_model_folders(spoil: Callable[[Path], None], said: str, model: Path, tmp_path: Path) -> None:
    spoil(model)
    refused(ftbench("run", "demo-lora", "--model", str(model)), said)
    assert list((tmp_path / "runs").iterdir()) == []


def test_no_such_model() -> None:
    refused(ftbench("run", "demo-lora", "--model", "./nowhere"), "model not found")


def test_a_hub_model_without_a_network_is_one_line() -> None:
    refused(ftbench("run", "demo-lora", "--model", "nobody/nothing"), "Hub")


@pytest.mark.parametrize("verb", [["run", "demo-lora", "--data", "tickets"], ["data", "check", "tickets"]])
def test_an_endless_chat_template_is_refused_with_what_to_do(verb: list[str], tmp_path: Path) -> None:
    template = tmp_path / "endless.jinja"
    template.write_text("{% for i in range(10**12) %}{% endfor %}")
    done = ftbench(*verb, "--set", f"model.chat_template={template}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "the chat template" in line and "set model.chat_template" in line


def test_rows_that_were_all_refused_are_counted_with_reasons(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    wizard = {"messages": [{"role": "user", "content": "a"}, {"role": "wizard", "content": "b"}]}
    path.write_bytes(lines(wizard, wizard, {"messages": [{"role": "user", "content": "a"}]}, wizard))
    for more in ([], ["--json"]):
        done = ftbench("data", "show", str(path), *more)
        refused(
            done, "4 rows left out", "3 message with an unknown role", "line 1", "1 no answer", "line 3", "data check"
        )
        assert done.stdout == ""
    refused(ftbench("data", "show", str(path), "--split", "test"), "no test row")
