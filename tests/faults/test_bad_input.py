"""Invalid input to the real command: one line with what, where and what to do, exit status 2, no files created."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from forked import ftbench

from engine.assets import tiny_folder

GOOD = {"prompt": "a", "completion": "b"}


def refused(*arguments: str, code: str, values: tuple[str, ...] = ()) -> None:
    """Assert exit status 2 and one JSON line on stderr with this code; `values` must be in its fields."""
    done = ftbench(*arguments, "--json")
    assert (done.returncode, done.stdout) == (2, ""), done
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert error["code"] == code, error
    for value in values:
        assert value in f"{error['problem']} {error['location']} {error['hint']}", error


def test_an_error_is_one_line_of_text_without_json() -> None:
    done = ftbench("run", "demo-lorra")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("ftbench: ") and "demo-lora" in line


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


BAD_FILES: dict[str, tuple[str, bytes | Callable[[], bytes], str, tuple[str, ...]]] = {
    "empty": ("a.jsonl", b"", "data.no_rows", ("a.jsonl",)),
    "not UTF-8": ("a.jsonl", lines(GOOD, GOOD) + b'{"prompt": "\xff\xfe"}\n', "data.not_utf8", ("line 3",)),
    "truncated": ("a.jsonl", lines(GOOD) + b'{"prompt": "a", "comp', "data.invalid_json", ("line 2",)),
    "mixed types": ("a.jsonl", lines(GOOD, {"prompt": 7, "completion": "b"}), "data.mixed_types", ("line 2",)),
    "not objects": ("a.jsonl", lines(GOOD, [1, 2]), "data.invalid_row", ("line 2",)),
    "deep": ("a.jsonl", lambda: b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}\n", "data.too_deep", ("line 1",)),
    "60 MB line": (
        "a.jsonl", lambda: b'{"prompt": "' + b"a" * 60_000_000 + b'"}\n', "data.row_too_long", ("line 1", "16 MiB"),
    ),
    "decompression bomb": (
        "a.jsonl.gz", lambda: gzip.compress((b" " * 9_999 + b"\n") * 15_000), "data.grows_too_large", ("a.jsonl.gz",),
    ),
    "unknown columns": (
        "a.jsonl", lines({"left": "a", "right": "b"}), "data.no_format", ("--set data.map.prompt=left",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(name: str, tmp_path: Path) -> None:
    file, content, code, values = BAD_FILES[name]
    path = tmp_path / file
    path.write_bytes(content if isinstance(content, bytes) else content())
    refused("run", "demo-lora", "--data", str(path), code=code, values=values)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_check_fails_if_no_row_has_an_answer(how: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(GOOD, *[{"prompt": "a", "completion": ""}] * 40))
    done = ftbench("data", "check", str(path), *how)
    assert done.returncode == 2 and "40 of 41 train rows" in done.stdout
    path.write_bytes(lines(*[{"prompt": f"a{n}", "completion": "b"} for n in range(40)]))
    assert ftbench("data", "check", str(path), *how).returncode == 0


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "mails.jsonl").write_bytes(lines(GOOD))
    refused("run", "demo-lora", "--data", str(tmp_path / "mail.jsonl"), code="data.not_found", values=("mails.jsonl",))
    assert list((tmp_path / "runs").iterdir()) == []


def test_rows_without_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(*({"prompt": f"p{n}", "completion": "x" if n % 2 else ""} for n in range(40))))
    refused("run", "demo-lora", "--data", str(path), code="data.too_many_unusable_rows", values=("20 of 40",))


def test_a_file_as_runs_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    commands = {
        "runs": "unreadable",
        "report last": "unreadable",
        "attach x": "unreadable",
        "ladder demo": "not_writable",
    }
    for command, code in commands.items():
        refused(*command.split(), "--runs", str(file), code=f"runs.{code}", values=("--runs DIR",))


BAD_PRESETS = {
    "unknown key": ("[train]\nbach = 8\n", "preset.unknown_key", ("line 2", "train.bach", "train.batch")),
    "out of range": ("[train]\n\nbatch = 0\n", "preset.invalid_value", ("line 3", "train.batch")),
    "not one of": ('[train]\nschedule = "cosin"\n', "preset.invalid_value", ("line 2", "cosine")),
    "key without reader": ('method = "full"\n[adapter]\nrank = 8\n', "preset.unread_key", ("line 3", "qlora", "lora")),
    "both": ("[train]\nsteps = 3\nepochs = 2\n", "preset.steps_and_epochs", ("train.steps", "train.epochs")),
    "not TOML": ("[train\n", "preset.invalid_toml", ()),
    "not a table": ('data = "x"\n', "preset.not_a_table", ("line 1", "[data]")),
    "separator unread": (
        '[data]\nformat = "messages"\nseparator = "A:"\n', "preset.unread_separator", ("line 3", "data.separator"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PRESETS)
def test_bad_presets(name: str, tmp_path: Path) -> None:
    text, code, values = BAD_PRESETS[name]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    refused("run", str(path), code=code, values=("mine", *values))
    assert not (tmp_path / "runs").exists()


def test_unknown_preset_and_setting() -> None:
    refused("run", "demo-lorra", code="preset.not_found", values=("demo-lora",))
    typo = ("run", "demo-lora", "--set", "train.lerning_rate=1")
    refused(*typo, code="preset.unknown_key", values=("train.learning_rate",))
    refused("run", "demo-full", "--set", "adapter.rank=4", code="preset.unread_key", values=("adapter.rank", "full"))


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
    ("spoil", "code"),
    [
        (no_tokenizer, "model.no_tokenizer"),
        (pickle_only, "model.pickled"),
        (no_config, "model.no_config"),
        (unknown_architecture, "model.unsupported_architecture"),
        (own_code, "model.remote_code"),
        (truncated_weights, "model.weights_damaged"),
        (no_chat_template, "data.no_template"),
    ],
)
def test_bad_model_folders(spoil: Callable[[Path], None], code: str, model: Path, tmp_path: Path) -> None:
    spoil(model)
    refused("run", "demo-lora", "--model", str(model), code=code)
    assert list((tmp_path / "runs").iterdir()) == []


def test_no_such_model() -> None:
    refused("run", "demo-lora", "--model", "./nowhere", code="model.not_found", values=("nowhere",))


def test_a_hub_model_without_network_access_is_refused() -> None:
    refused("run", "demo-lora", "--model", "nobody/nothing", code="model.offline")


@pytest.mark.parametrize("verb", [["run", "demo-lora", "--data", "tickets"], ["data", "check", "tickets"]])
def test_an_endless_chat_template_is_refused(verb: list[str], tmp_path: Path) -> None:
    template = tmp_path / "endless.jinja"
    template.write_text("{% for i in range(10**12) %}{% endfor %}")
    refused(*verb, "--set", f"model.chat_template={template}", code="template.limit", values=("model.chat_template",))


def test_rows_left_out_are_counted_with_reasons(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    wizard = {"messages": [{"role": "user", "content": "a"}, {"role": "wizard", "content": "b"}]}
    path.write_bytes(lines(wizard, wizard, {"messages": [{"role": "user", "content": "a"}]}, wizard))
    counts = ("4 rows left out", "3 message with an unknown role", "line 1", "1 no answer", "line 3", "data check")
    refused("data", "show", str(path), code="data.all_rows_refused", values=counts)
    refused("data", "show", str(path), "--split", "test", code="data.all_rows_refused")
