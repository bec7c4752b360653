"""Files of a model that block, are too large, or cannot be right end in one line and exit status 2."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from command import ftbench
from safetensors.torch import load_file, save_file

from engine.assets import tiny_folder
from engine.config import schema
from engine.config.errors import UserError
from engine.config.model_files import MAX_CONFIG_BYTES, read_model_config
from engine.methods.loading import load_pretrained
from engine.methods.machine import Machine
from engine.methods.model_source import check_gguf, config_of, gguf_to_folder, load_tokenizer, locate

CPU = Machine("cpu", "a CPU", bf16=False, flash_attention=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    return Path(shutil.copytree(tiny_folder(), tmp_path / "model"))


def load(folder: Path) -> None:
    model = schema.Model(id=str(folder))
    config_of(model)
    load_tokenizer(model)
    load_pretrained(model, CPU, torch.float32)


def refusal(folder: Path) -> str:
    """The code of the error that loading raises; its line is one line."""
    with pytest.raises(UserError) as refused:
        load(folder)
    assert "\n" not in refused.value.line and refused.value.code.startswith("model.")
    return refused.value.code


def test_the_unchanged_copy_loads(folder: Path) -> None:
    load(folder)


KINDS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "directory": Path.mkdir,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "huge": lambda path: (path.touch(), os.truncate(path, 6 << 30)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    [
        *(
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "generation_config.json",
            "special_tokens_map.json",
        ),
        *("added_tokens.json", "chat_template.jinja", "model.safetensors.index.json", "vocab.json", "merges.txt"),
        *("adapter_config.json", "tokenizer.model"),
    ],
)
def test_no_file_of_a_model_is_read_unless_it_is_regular_and_bounded(name: str, kind: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    KINDS[kind](folder / name)
    with pytest.raises(UserError) as refused:
        locate(schema.Model(id=str(folder)))
    assert refused.value.code in ("model.file_unreadable", "model.config_damaged")


def test_a_config_is_read_up_to_its_limit(folder: Path) -> None:
    (folder / "config.json").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(UserError) as refused:
        read_model_config(folder)
    assert refused.value.code == "model.config_damaged"


WRONG: list[tuple[str, Any]] = [
    *(("hidden_act", 3), ("hidden_act", "no-such-function"), ("rms_norm_eps", "small"), ("rope_theta", "far")),
    *(
        ("rope_parameters", "x"),
        ("rope_parameters", {"rope_type": 7}),
        ("model_type", 7),
        ("model_type", "no-such-model"),
    ),
    *(("architectures", 7), ("dtype", 7), ("dtype", "no-such-type"), ("tie_word_embeddings", "x"), ("head_dim", 3)),
    *(("num_attention_heads", 7), ("num_key_value_heads", 3), ("layer_types", ["x"])),
    *(("quantization_config", 7), ("quantization_config", {"quant_method": "x"})),
    *(
        ("eos_token_id", "x"),
        ("max_position_embeddings", "x"),
        ("attention_bias", "x"),
        ("auto_map", {"AutoConfig": "x.Y"}),
    ),
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=[f"{key}={value}" for key, value in WRONG])
def test_settings_of_wrong_types_and_sizes_load_or_are_refused(key: str, value: Any, folder: Path) -> None:
    """Some values have no meaning for the architecture: then the model loads; nothing else may be raised."""
    table = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**table, key: value}))
    try:
        load(folder)
    except UserError as refused:
        assert "\n" not in refused.line and refused.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"model": 3}', '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'),
        '{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"model": {"type": "BPE", "vocab": {}, "merges": []}, "pre_tokenizer": '
        + '{"type": "Sequence", "pretokenizers": [' * 5000
        + "]}" * 5000
        + "}",
    ],
)
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"])
def test_damaged_and_nested_files_are_refused_or_ignored(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    try:
        load(folder)
    except UserError as refused:
        assert "\n" not in refused.line and refused.exit_code == 2
    else:
        assert name in ("tokenizer_config.json", "generation_config.json")


def test_weights_that_cannot_be_right_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith(".weight") and tensors[name].dim() == 2)
    length = int.from_bytes(whole[:8], "little")
    table = json.loads(whole[8 : 8 + length])

    def with_header(header: dict[str, Any]) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + whole[8 + length :]

    files: dict[str, bytes] = {
        "truncated": whole[:-100],
        "appended": whole + b"x" * 100,
        "empty": b"",
        "endless header": struct.pack("<Q", 1 << 62) + whole[8:],
        "no header": struct.pack("<Q", 0) + whole[8:],
        "shape": with_header({**table, name: {**table[name], "shape": [1, 1]}}),
        "overlap": with_header({**table, name: {**table[name], "data_offsets": [0, 4]}}),
        "negative": with_header({**table, name: {**table[name], "shape": [-1, -1]}}),
        "type": with_header({**table, name: {**table[name], "dtype": "F3"}}),
        "not a table": with_header({**table, name: 7}),
    }
    for damage, content in files.items():
        path.write_bytes(content)
        with pytest.raises(UserError) as refused:
            locate(schema.Model(id=str(folder)))
        assert refused.value.code == "model.weights_damaged", damage
    save_file({**tensors, name: torch.zeros_like(tensors[name], dtype=torch.int32)}, path, {"format": "pt"})
    assert refusal(folder) == "model.weights_damaged"
    save_file({other: tensor for other, tensor in tensors.items() if other != name}, path, {"format": "pt"})
    assert refusal(folder) == "model.model_unloadable"
    save_file({**tensors, name: tensors[name][:-1].contiguous()}, path, {"format": "pt"})
    assert refusal(folder) == "model.model_unloadable"


def made_gguf(path: Path, layers: int = 1) -> Path:
    """A Llama of one layer with a tokenizer of 300 tokens."""
    width, tokens = 32, [*(chr(code) for code in range(33, 127)), "ab", *(f"t{number}" for number in range(205))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    chance = np.random.default_rng(0)
    sizes = {"token_embd": (len(tokens), width), "output_norm": (width,), "output": (len(tokens), width)}
    for part, size in {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "ffn_gate": (64, width),
        "ffn_up": (64, width),
        "ffn_down": (width, 64),
        **{f"attn_{name}": (width, width) for name in ("q", "k", "v", "output")},
    }.items():
        sizes[f"blk.0.{part}"] = size
    for name, size in sizes.items():
        writer.add_tensor(f"{name}.weight", chance.normal(size=size).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_data_check_converts_a_gguf_model(tmp_path: Path) -> None:
    """The process that checks data imports no torch, except to convert a model."""
    file = made_gguf(tmp_path / "small.gguf")
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": f"a b {number}", "completion": "c"}) + "\n" for number in range(40))
    )
    done = ftbench("data", "check", str(tmp_path / "rows.jsonl"), "--model", str(file), "--json")
    assert "Please install" not in done.stderr and done.returncode in (0, 1), done.stderr
    assert json.loads(done.stdout)
    (weights,) = Path(os.environ["XDG_CACHE_HOME"]).rglob("model.safetensors")
    converted = weights.stat().st_ino
    assert gguf_to_folder(file) == weights.parent and weights.stat().st_ino == converted  # not converted again


def test_bogus_counts_of_a_gguf_file_are_refused(tmp_path: Path) -> None:
    whole = made_gguf(tmp_path / "small.gguf").read_bytes()
    check_gguf(tmp_path / "small.gguf")
    key = whole.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens")
    counts = {
        "tensors": whole[:8] + struct.pack("<Q", 1 << 60) + whole[16:],
        "keys": whole[:16] + struct.pack("<Q", 1 << 60) + whole[24:],
        "key length": whole[:24] + struct.pack("<Q", 1 << 62) + whole[32:],
        "elements": whole[: key + 8] + struct.pack("<Q", 1 << 60) + whole[key + 16 :],
        "value type": whole[:key] + struct.pack("<I", 99) + whole[key + 4 :],
        "element type": whole[: key + 4] + struct.pack("<I", 99) + whole[key + 8 :],
        "version": whole[:4] + struct.pack("<I", 99) + whole[8:],
        "truncated": whole[: len(whole) // 8],
        "empty": b"",
        "magic": b"GGML" + whole[4:],
    }
    for damage, content in counts.items():
        (tmp_path / "bad.gguf").write_bytes(content)
        with pytest.raises(UserError) as refused:
            gguf_to_folder(tmp_path / "bad.gguf")
        assert refused.value.code == "model.gguf_unreadable", damage
    (tmp_path / "vocabulary.gguf").write_bytes(whole.replace(b"a b", b"a ~"))
    for bad in (made_gguf(tmp_path / "deep.gguf", layers=1 << 30), tmp_path / "vocabulary.gguf"):
        with pytest.raises(UserError) as refused:
            gguf_to_folder(bad)
        assert refused.value.code == "model.gguf_unreadable"
    with pytest.raises(UserError, match="at least"):  # the weights of all but one layer would be random
        gguf_to_folder(made_gguf(tmp_path / "layers.gguf", layers=4))
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(UserError) as refused:
        locate(schema.Model(id=str(tmp_path / "pipe.gguf")))
    assert refused.value.code in ("model.gguf_unreadable", "model.not_found")
