"""Hostile inputs: task files, chat templates, models, GGUF files, datasets, presets, and files that block or never end.

`python -m tools.attacks.run_hostile [PART …]`: `tasks`, `templates`, `models`, `gguf`, `data`, `presets`; all by
default. Every command must end in time and memory with one line, exit status 0, 1 or 2; a canary file must not appear.
"""

# ruff: noqa: E501 - hostile texts are one per line

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import forked

from tools.attacks.run_common import TINY, Done, Table, last_line, workplace

GIB = 1 << 30
SECONDS = 180
"""To wait for a command on a loaded machine."""
MEMORY = 12 * GIB
"""Of address space: libraries take 6 GiB."""
LONG = "a" * (1 << 20)
ITEMS = [{"question": f"{n}. The sky is", "choices": ["blue", "red"], "label": 0, "answer": "blue"} for n in range(20)]
TASK = """task: t
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc}]
"""


def bombs(canary: Path) -> list[tuple[str, str]]:
    """Task files: names, and the text."""
    levels = "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, 12))
    text = TASK.replace
    touch = f"{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}{{{{ cycler.__init__.__globals__.os.system('touch {canary}') }}}}"
    replaced = [
        ("doc_to_text: a number", '"{{question}}"', "7"),
        ("doc_to_text: a list", '"{{question}}"', "[a, {b: c}]"),
        ("doc_to_text that reads globals", '"{{question}}"', json.dumps(touch)),
        ("doc_to_text that never ends", '"{{question}}"', json.dumps("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")),
        ("doc_to_text that fills the memory", '"{{question}}"', json.dumps("{{ 'x' * 9999999999 }}")),
        ("doc_to_text with tojson indent", '"{{question}}"', json.dumps("{{ [[1]]|tojson(indent=2000000000) }}")),
        ("doc_to_text with a format width", '"{{question}}"', json.dumps("{{ '%9999999999d' % 1 }}")),
        ("doc_to_text that is invalid Jinja", '"{{question}}"', json.dumps("{% for %}")),
        ("doc_to_text with an undefined column", '"{{question}}"', json.dumps("{{ none.such.thing }}")),
        ("doc_to_text with an include", '"{{question}}"', json.dumps("{% include '/etc/passwd' %}")),
        ("doc_to_text of 1 MiB", '"{{question}}"', LONG),
        ("doc_to_choice of wrong type", "doc_to_choice: choices", "doc_to_choice: 7"),
        ("doc_to_choice without choices", "doc_to_choice: choices", "doc_to_choice: []"),
        ("doc_to_target out of range", "doc_to_target: label", "doc_to_target: 99999"),
        ("doc_to_target negative", "doc_to_target: label", "doc_to_target: -5"),
        ("doc_to_target of a mapping", "doc_to_target: label", "doc_to_target: {a: b}"),
        ("unknown output_type", "multiple_choice", "no_such"),
        ("output_type of a list", "multiple_choice", "[multiple_choice]"),
        ("loglikelihood without perplexity", "multiple_choice", "loglikelihood_rolling"),
        ("unknown split", "test_split: test", "test_split: other"),
        ("split of a number", "test_split: test", "test_split: 7"),
        ("split that slices", "test_split: test", "test_split: 'test[:1%]'"),
        ("metric of a path", "{metric: acc}", f"{{metric: {canary}.py}}"),
        ("metric of unknown name", "{metric: acc}", "{metric: nosuch}"),
        ("metric with aggregation of code", "{metric: acc}", "{metric: acc, aggregation: os.system}"),
        ("metric that is null", "[{metric: acc}]", "[null]"),
        ("metric_list of 10000", "[{metric: acc}]", "[" + "{metric: acc}," * 10000 + "]"),
        ("metric with higher_is_better of text", "{metric: acc}", "{metric: acc, higher_is_better: maybe}"),
        ("data_files above the folder", "items.jsonl", "../../../../etc/passwd"),
        ("data_files of a device", "items.jsonl", "/dev/zero"),
        ("data_files of a pipe", "items.jsonl", "pipe.jsonl"),
        ("data_files of a URL", "items.jsonl", "http://127.0.0.1:1/x"),
        ("data_files of a chain", "items.jsonl", "zip://x::items.jsonl"),
        ("data_files with a glob", "items.jsonl", "'*'"),
        ("data_files of a folder", "items.jsonl", "."),
        ("data_files with NUL", "items.jsonl", '"a\\0b"'),
        ("data_files of a huge sparse file", "items.jsonl", "sparse.jsonl"),
        ("dataset_path of a script", "dataset_path: json", "dataset_path: ./script.py"),
        ("dataset_path pickle", "dataset_path: json", "dataset_path: pandas"),
        ("dataset_path of a number", "dataset_path: json", "dataset_path: 3"),
        ("parquet that is JSON", "dataset_path: json", "dataset_path: parquet"),
        ("arrow that is JSON", "dataset_path: json", "dataset_path: arrow"),
        ("task name with a path", "task: t", "task: ../../x"),
        ("task name of a shipped task", "task: t", "task: arc_easy"),
        ("task name with control characters", "task: t", 'task: "a\\e[2Jb"'),
        ("task name empty", "task: t", "task: ''"),
    ]  # fmt: skip
    added = [
        ("billion laughs", f"x0: &x0 [lol, lol]\n{levels}\n"),
        ("!function", "doc_to_decontamination_query: !function os.system\n"),
        ("python/object", f"metadata: !!python/object/apply:os.system ['touch {canary}']\n"),
        ("merge keys", "metadata: &m {<<: *m}\n"),
        ("include of itself", "include: t.yaml\n"),
        ("include of a device", "include: /dev/zero\n"),
        ("include of a pipe", "include: pipe.jsonl\n"),
        ("include of passwd", "include: /etc/passwd\n"),
        ("process_results", "process_results: os.system\n"),
        ("num_fewshot huge", "num_fewshot: 1000000000\n"),
        ("num_fewshot negative", "num_fewshot: -3\n"),
        ("num_fewshot text", "num_fewshot: many\n"),
        ("num_fewshot inf", "num_fewshot: .inf\n"),
        ("fewshot_config with code", "fewshot_config: {sampler: os.system}\n"),
        ("fewshot_config with process_docs", "num_fewshot: 1\nfewshot_config: {process_docs: x}\n"),
        ("fewshot_config samples", "num_fewshot: 1\nfewshot_config: {sampler: first_n, samples: [7]}\n"),
        ("filter_list of unknown", "filter_list: [{name: x, filter: [{function: nosuch}]}]\n"),
        ("filter_list of text", "filter_list: [x]\n"),
        (
            "filter regex that explodes",
            "filter_list: [{name: x, filter: [{function: regex, regex_pattern: '(a+)+$'}]}]\n",
        ),
        ("filter map", "filter_list: [{name: x, filter: [{function: map, mapping_dict: 7}]}]\n"),
        ("repeats huge", "repeats: 100000000\n"),
        ("repeats text", "repeats: x\n"),
        ("generation_kwargs for choices", "generation_kwargs: {max_gen_toks: 99999999999}\n"),
        ("generation_kwargs with until of numbers", "generation_kwargs: {until: [1, null]}\n"),
        ("description of a mapping", "description: {a: b}\n"),
        ("target_delimiter of a number", "target_delimiter: 7\n"),
        ("metadata of dates", "metadata: {version: 2020-99-99}\n"),
        ("a number as key", "7: x\n"),
        ("an unhashable key", "? [a]\n: b\n"),
        ("deep nesting", "metadata: " + "[" * 5000 + "]" * 5000 + "\n"),
        ("a long integer", f"num_fewshot: {'9' * 6000}\n"),
        ("duplicate keys", "task: t\ntask: u\n"),
        ("tabs", "\tx: 1\n"),
        ("NUL", "description: a\0b\n"),
        ("tag list", "tag: [7, [8]]\n"),
        ("gen_prefix of code", "gen_prefix: '{{ cycler.__init__.__globals__ }}'\n"),
    ]
    whole = [("empty", ""), ("a list", "- a\n"), ("text", "hello"), ("binary", "\x00\x01\x02"), ("two documents", f"{TASK}---\n{TASK}"),
             ("a BOM", "\ufeff" + TASK), ("unknown anchor", "a: *b"), ("utf-16", TASK.encode("utf-16").decode("latin1"))]  # fmt: skip
    return [
        *((name, text(old, new)) for name, old, new in replaced),
        *((name, TASK + more) for name, more in added),
        *whole,
    ]


def bounded(*words: str, folder: Path, canary: Path) -> Done:
    """A command with the limits of this process; it must end cleanly and in time, and run no code."""
    environment = {**os.environ, "FTBENCH_RUNS": str(folder / "runs")}
    try:
        completed = forked.ftbench(*words, cwd=folder, env=environment, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        for lock in folder.glob("runs/*/engine.lock"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(lock.read_text()), signal.SIGKILL)
        raise AssertionError("hangs") from None
    done = Done(completed.returncode, completed.stdout, completed.stderr)
    assert not done.clean, f"{done.clean}: {(done.err or done.out)[-400:]}"
    assert not canary.exists(), "code was run"
    shown = [line for line in done.err.strip().splitlines() if line.startswith("ftbench")]
    assert len(shown) <= 1, f"{len(shown)} lines of error"
    return done


def tasks(table: Table, folder: Path) -> None:
    folder.mkdir()
    canary = folder / "canary"
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    (folder / "script.py").write_text(f"open({str(canary)!r}, 'w')\n")
    (folder / "canary.py").write_text(f"open({str(canary)!r}, 'w')\n")
    os.mkfifo(folder / "pipe.jsonl")
    with (folder / "sparse.jsonl").open("wb") as file:
        file.truncate(20 * GIB)
    for name, text in bombs(canary):
        with table.attack(f"task file: {name}") as say:
            (folder / "t.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
            settings = [*TINY, "--set", 'evaluation.benchmarks=["t.yaml"]', "--set", "evaluation.benchmark_limit=2"]
            settings = ["train.steps=1" if word == "train.steps=6" else word for word in settings]
            say(last_line(bounded("run", "demo-lora", *settings, folder=folder, canary=canary)))


TEMPLATES = [
    ("globals", "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}{{ messages }}"),
    ("attributes", "{{ messages.__class__.__base__.__subclasses__() }}"),
    ("format attributes", "{{ '{0.__class__}'.format(messages) }}"),
    ("endless loop", "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"),
    ("power", "{{ 9**9**9 }}"),
    ("repeat", "{{ 'x' * 99999999999 }}"),
    ("ljust", "{{ 'x'.ljust(9999999999) }}"),
    ("center filter", "{{ 'x'|center(9999999999) }}"),
    ("indent filter", "{{ 'x\nx'|indent(9999999999) }}"),
    ("wordwrap", "{{ ('x ' * 999999)|wordwrap(1) }}"),
    ("tojson", "{{ messages|tojson(indent=1999999999) }}"),
    ("batch filter", "{{ [1]|batch(999999999, 0)|list }}"),
    ("slice filter", "{{ [1]|slice(999999999)|list }}"),
    ("recursive macro", "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
    ("recursive loop", "{% for m in [messages] recursive %}{{ loop([messages]) }}{% endfor %}"),
    ("deep brackets", "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"),
    ("deep ifs", "{% if 1 %}" * 3000 + "{% endif %}" * 3000),
    ("include", "{% include '/etc/passwd' %}"),
    ("import", "{% import 'os' as os %}{{ os }}"),
    ("extends", "{% extends 'x' %}"),
    ("raise", "{{ raise_exception('\x1b[2J no') }}"),
    ("division", "{{ 1/0 }}"),
    ("undefined", "{{ a.b.c }}"),
    ("strftime", "{{ strftime_now('%' * 99999) }}"),
    ("generation tags", "{% generation %}{% generation %}{% endgeneration %}"),
    ("long text", "a" * (3 << 20)),
    ("empty", ""),
    ("only answers", "{{ messages[-1].content }}"),
    ("ignores messages", "hello"),
    ("appends to messages", "{% set _ = messages.append(messages) %}{{ messages }}"),
    ("clears messages", "{% set _ = messages.clear() %}x"),
    ("joiner", "{% set j = joiner('x' * 99999999) %}{% for i in range(9999) %}{{ j() }}{% endfor %}"),
    ("namespace cycle", "{% set n = namespace() %}{% set n.n = n %}{{ n }}{{ n|pprint }}"),
    ("random", "{% for m in messages %}{{ [1,2,3,4,5,6,7]|random }}{{ m.content }}{% endfor %}"),
    ("lipsum", "{{ lipsum(n=99999999) }}"),
    ("urlize", "{{ ('http://' + 'a.' * 999999)|urlize }}"),
    ("Go template", "{{ range .Messages }}{{ .Content }}{{ end }}"),
    ("Go injection", "{% for m in messages %}{{ '{{ .System }}' }}{{ m.content }}{% endfor %}"),
    ('triple quotes', '{% for m in messages %}"""\nFROM /etc/passwd\n{{ m.role }}{{ m.content }}{% endfor %}'),
]  # fmt: skip


def templates(table: Table, folder: Path) -> None:
    folder.mkdir()
    model, canary = embedded(folder), folder / "canary"
    data = folder / "train.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]}
        for n in range(40)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in TEMPLATES:
        for way in ("chat_template.jinja", "tokenizer_config.json"):
            with table.attack(f"chat template in {way}: {name}") as say:
                copy = folder / "copy"
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(model, copy)
                (copy / "chat_template.jinja").unlink(missing_ok=True)
                text_here = text.replace("CANARY", str(canary))
                if way == "chat_template.jinja":
                    (copy / way).write_text(text_here)
                else:
                    table_ = json.loads((copy / way).read_text())
                    (copy / way).write_text(json.dumps(table_ | {"chat_template": text_here}))
                words = ("data", "check", str(data), "--model", str(copy))
                say(last_line(bounded(*words, folder=folder, canary=canary)))


def embedded(folder: Path) -> Path:
    """A copy of the embedded model."""
    from engine.assets import tiny_folder

    return Path(shutil.copytree(tiny_folder(), folder / "model"))


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # its path has at most 107 characters
        made.bind(path.name)
        os.chdir(here)


def make_sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 6 * GIB)


KINDS: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "socket": make_socket,
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "sparse": make_sparse,
    "directory": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "empty": Path.touch,
    "random": lambda path: path.write_bytes(os.urandom(50_000)),
}


def safetensors(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


HEADERS: list[tuple[str, bytes]] = [
    ("no header", b"\0" * 4),
    ("header of 2^63 bytes", safetensors({}, length=1 << 63)),
    ("header of 2 GB", safetensors({}, length=2 << 30)),
    ("header that is a list", safetensors([])),
    ("header nested 10,000 deep", safetensors(b"[" * 10_000 + b"]" * 10_000)),
    ("header not UTF-8", safetensors(b'{"\xff": 1}')),
    ("offsets beyond the file", safetensors({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 1 << 60]}})),
    ("negative offsets", safetensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}, b"1234")),
    ("overlapping", safetensors({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}, b"1234")),
    ("shape overflow", safetensors({"a": {"dtype": "F32", "shape": [1 << 32, 1 << 32], "data_offsets": [0, 0]}})),
    ("shape of text", safetensors({"a": {"dtype": "F32", "shape": "x", "data_offsets": [0, 4]}}, b"1234")),
    ("unknown dtype", safetensors({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"1234")),
    ("10^5 tensors", safetensors({f"a{n}": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for n in range(10**5)})),
    ("names with control characters", safetensors({"\x1b[2J": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"1234")),
    ("metadata of numbers", safetensors({"__metadata__": {"a": 7}})),
    ("pickle", b"\x80\x04cos\nsystem\n(S'touch CANARY'\ntR."),
]  # fmt: skip


def models(table: Table, folder: Path) -> None:
    """Every file of a model replaced by every kind; headers; values of config.json and of the tokenizer."""
    folder.mkdir()
    model, canary = embedded(folder), folder / "canary"
    names = sorted(path.name for path in model.iterdir() if path.is_file())

    def attack(name: str, damage: Callable[[Path], Any], *words: str) -> None:
        with table.attack(name) as say:
            copy = folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(model, copy)
            damage(copy)
            words = words or ("run", "demo-lora", *one_step())
            say(last_line(bounded(*words, "--model", str(copy), folder=folder, canary=canary)))

    for name in names:
        for number, (kind, make) in enumerate(KINDS.items()):

            def replaced(copy: Path, name: str = name, make: Callable[[Path], Any] = make) -> None:
                (copy / name).unlink()
                make(copy / name)

            way = () if number % 2 else ("data", "check", "tickets")
            attack(f"model: {name} is {kind}", replaced, *way)
    for name, content in HEADERS:
        filled = content.replace(b"CANARY", str(canary).encode())
        attack(f"weights: {name}", lambda copy, filled=filled: (copy / "model.safetensors").write_bytes(filled))
    attack("weights: only pickle", lambda copy: (copy / "model.safetensors").rename(copy / "pytorch_model.bin"))
    index = {"metadata": {}, "weight_map": {"a": "../../../../etc/passwd"}}
    for name, value in (("leaves the folder", index), ("of numbers", {"weight_map": {"a": 7}}), ("a list", []), ("of a URL", {"weight_map": {"a": "http://127.0.0.1:1/x"}})):  # fmt: skip

        def indexed(copy: Path, value: Any = value) -> None:
            (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
            (copy / "model.safetensors.index.json").write_text(json.dumps(value))

        attack(f"weights: an index {name}", indexed)
    for key, value in (
        *(("vocab_size", 10**9), ("vocab_size", -1), ("vocab_size", 0), ("hidden_size", 10**12), ("hidden_size", 0)),
        *(("num_hidden_layers", 10**9), ("num_hidden_layers", -1), ("num_hidden_layers", 1e300), ("intermediate_size", 2**62)),
        *(("num_attention_heads", 0), ("head_dim", 10**9), ("max_position_embeddings", 10**18), ("model_type", "x" * 10**6)),
        *(("hidden_act", "__import__('os')"), ("rope_parameters", {"rope_type": "dynamic", "factor": 0}), ("rms_norm_eps", "nan")),
        *(("eos_token_id", [10**12]), ("pad_token_id", -7), ("bos_token_id", {"a": 1}), ("torch_dtype", "float999")),
        *(("tie_word_embeddings", []), ("auto_map", {"AutoModelForCausalLM": "script.Model"}), ("sliding_window", -1)),
        *(("attention_dropout", 7), ("initializer_range", -1e308), ("use_cache", "x"), ("quantization_config", {"quant_method": "bitsandbytes"})),
    ):  # fmt: skip

        def configured(copy: Path, key: str = key, value: Any = value) -> None:
            table_ = json.loads((copy / "config.json").read_text())
            (copy / "config.json").write_text(json.dumps(table_ | {key: value}))
            (copy / "script.py").write_text(f"open({str(canary)!r}, 'w')\nclass Model: pass\n")

        attack(f"config: {key} = {str(value)[:40]}", configured)
    for name, change in TOKENIZERS:

        def changed(copy: Path, change: Callable[[Any], Any] = change) -> None:
            content = change(json.loads((copy / "tokenizer.json").read_text()))
            (copy / "tokenizer.json").write_text(content if isinstance(content, str) else json.dumps(content))

        attack(f"tokenizer: {name}", changed)


TOKENIZERS: list[tuple[str, Callable[[Any], Any]]] = [
    ("a list", lambda t: []),
    ("nested", lambda t: "[" * 100_000 + "]" * 100_000),
    ("without a model", lambda t: {**t, "model": {}}),
    ("an empty vocabulary", lambda t: {**t, "model": {**t["model"], "vocab": {}}}),
    ("ids of 2^40", lambda t: {**t, "model": {**t["model"], "vocab": {k: v + (1 << 40) for k, v in t["model"]["vocab"].items()}}}),
    ("all ids equal", lambda t: {**t, "model": {**t["model"], "vocab": dict.fromkeys(t["model"]["vocab"], 1)}}),
    ("ids beyond the embedding", lambda t: {**t, "model": {**t["model"], "vocab": {k: v + 100_000 for k, v in t["model"]["vocab"].items()}}}),
    ("merges of unknown tokens", lambda t: {**t, "model": {**t["model"], "merges": [["zzq", "qqz"]]}}),
    ("a regex that explodes", lambda t: {**t, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}}),
    ("an invalid regex", lambda t: {**t, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}}),
    ("a normalizer that empties", lambda t: {**t, "normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}}),
    ("a normalizer that multiplies", lambda t: {**t, "normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 100_000}}),
    ("added tokens of ids 2^31", lambda t: {**t, "added_tokens": [{"id": 1 << 31, "content": "<x>", "special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}]}),
    ("truncation to 0", lambda t: {**t, "truncation": {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 0}}),
    ("padding to 10^9", lambda t: {**t, "padding": {"strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}}),
    ("a post-processor of unknown ids", lambda t: {**t, "post_processor": {"type": "BertProcessing", "sep": ["x", 10**9], "cls": ["y", 10**9]}}),
    ("no decoder", lambda t: {**t, "decoder": None}),
]  # fmt: skip


def one_step() -> list[str]:
    return ["train.steps=1" if word == "train.steps=6" else word for word in TINY]


def gguf_bytes(version: int = 3, tensors: int = 0, pairs: int = 0, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + rest


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


GGUFS = [
    ("empty", b""),
    ("only magic", b"GGUF"),
    ("version 99", gguf_bytes(99)),
    ("big-endian", b"GGUF" + struct.pack(">IQQ", 3, 0, 0)),
    ("2^63 tensors", gguf_bytes(tensors=1 << 63)),
    ("2^63 pairs", gguf_bytes(pairs=1 << 63)),
    ("nothing in it", gguf_bytes()),
    ("a key of 2^60 bytes", gguf_bytes(pairs=1, rest=struct.pack("<Q", 1 << 60) + b"abc")),
    ("a string of 2^60 bytes", gguf_bytes(pairs=1, rest=text(b"general.architecture") + struct.pack("<IQ", 8, 1 << 60))),
    ("an array of 2^60", gguf_bytes(pairs=1, rest=text(b"a") + struct.pack("<IIQ", 9, 4, 1 << 60))),
    ("arrays nested", gguf_bytes(pairs=1, rest=text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 20_000)),
    ("unknown type", gguf_bytes(pairs=1, rest=text(b"a") + struct.pack("<I", 77))),
    ("architecture of a number", gguf_bytes(pairs=1, rest=text(b"general.architecture") + struct.pack("<II", 4, 7))),
    ("unknown architecture", gguf_bytes(pairs=1, rest=text(b"general.architecture") + struct.pack("<I", 8) + text(b"\x1b[2Jzz"))),
    ("architecture not UTF-8", gguf_bytes(pairs=1, rest=text(b"general.architecture") + struct.pack("<I", 8) + text(b"\xff\xfe"))),
    ("architecture llama without anything", gguf_bytes(pairs=1, rest=text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"))),
    ("alignment 0", gguf_bytes(pairs=1, rest=text(b"general.alignment") + struct.pack("<II", 4, 0))),
    ("a tensor of 2^32 dimensions", gguf_bytes(tensors=1, rest=text(b"t") + struct.pack("<I", 0xFFFFFFFF))),
    ("a tensor of 2^62 elements", gguf_bytes(tensors=1, rest=text(b"t") + struct.pack("<IQQIQ", 2, 1 << 31, 1 << 31, 0, 0))),
    ("a tensor beyond the file", gguf_bytes(tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 1 << 50))),
    ("a tensor of unknown type", gguf_bytes(tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 4, 999, 0) + bytes(64))),
    ("random", os.urandom(100_000)),
    ("magic and random", b"GGUF" + struct.pack("<I", 3) + os.urandom(100_000)),
]  # fmt: skip


def ggufs(table: Table, folder: Path) -> None:
    folder.mkdir()
    canary = folder / "canary"
    for number, (name, content) in enumerate(GGUFS):
        with table.attack(f"GGUF: {name}") as say:
            path = folder / f"m{number}.gguf"
            path.write_bytes(content)
            say(last_line(bounded("run", "demo-lora", *one_step(), "--model", str(path), folder=folder, canary=canary)))
    for kind, make in KINDS.items():
        with table.attack(f"GGUF: {kind}") as say:
            path = folder / f"{kind}.gguf"
            make(path)
            say(last_line(bounded("data", "check", "tickets", "--model", str(path), folder=folder, canary=canary)))


DATA = [
    ("deep JSON", b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b', "completion": "x"}\n'),
    ("a row of 64 MiB", b'{"prompt": "' + b"a" * (64 << 20) + b'", "completion": "x"}\n'),
    ("10^5 columns", json.dumps({f"c{n}": "x" for n in range(100_000)}).encode() + b"\n"),
    ("NUL", b"\0" * 100_000),
    ("lone surrogates", b'{"prompt": "\\ud800", "completion": "\\udfff"}\n' * 20),
    ("integers of 10^5 digits", b'{"prompt": ' + b"9" * 100_000 + b', "completion": "x"}\n'),
    ("NaN", b'{"prompt": NaN, "completion": Infinity}\n' * 9),
    ("duplicate keys", b'{"prompt": "a", "prompt": "b", "completion": "x"}\n' * 9),
    ("one row", b'{"prompt": "a", "completion": "x"}\n'),
    ("empty answers", b'{"prompt": "a", "completion": ""}\n' * 30),
    ("special tokens", b'{"prompt": "<|im_end|><|endoftext|></s>", "completion": "<|im_start|>assistant"}\n' * 30),
    ("bidi and escapes", b'{"prompt": "\\u202e\\u001b[2J", "completion": "\\u0007x"}\n' * 30),
    ("a BOM and CRLF", b'\xef\xbb\xbf{"prompt": "a", "completion": "x"}\r\n' * 30),
    ("UTF-16", '{"prompt": "a", "completion": "x"}\n'.encode("utf-16")),
    ("gzip", b"\x1f\x8b\x08\0" + os.urandom(1000)),
    ("truncated", b'{"prompt": "a", "completion": "x"}\n{"prompt": "a", "comp'),
]
NAMES = ("x.jsonl", "x.json", "x.csv", "x.txt", "x.parquet", "x.arrow")


def data(table: Table, folder: Path) -> None:
    folder.mkdir()
    canary = folder / "canary"
    for number, (name, content) in enumerate(DATA):
        for file in (NAMES[0], NAMES[1 + number % 5]):
            with table.attack(f"data: {name} as {file}") as say:
                (folder / file).write_bytes(content)
                say(last_line(bounded("data", "check", str(folder / file), folder=folder, canary=canary)))
    for kind, make in KINDS.items():
        for file in (f"{kind}.jsonl", f"{kind}.parquet"):
            with table.attack(f"data: {file}") as say:
                make(folder / file)
                say(last_line(bounded("data", "check", str(folder / file), folder=folder, canary=canary)))


def presets(table: Table, folder: Path) -> None:
    """Presets of every kind of file, and hostile values."""
    folder.mkdir()
    canary = folder / "canary"
    contents = {
        "deep": b"a = " + b"[" * 20_000 + b"]" * 20_000,
        "deep tables": b"[" + b".".join([b"a"] * 20_000) + b"]",
        "binary": b"\0\xff" * 100,
        "10 MB": b"# " + b"x" * (10 << 20),
        "a huge integer": b"[train]\nsteps = " + b"9" * 10_000,
        "inf": b"[train]\nlearning_rate = inf",
        "negative": b"[train]\nsteps = -1",
        "a title with escapes": b'title = "\\u001b[2J"\nnone = 1',
        "a base of itself": b'base = "x.toml"',
    }
    for name, content in contents.items():
        with table.attack(f"preset: {name}") as say:
            (folder / "x.toml").write_bytes(content)
            say(last_line(bounded("run", "./x.toml", folder=folder, canary=canary)))
    for kind, make in KINDS.items():
        with table.attack(f"preset: {kind}") as say:
            make(folder / f"{kind}.toml")
            say(last_line(bounded("plan", f"./{kind}.toml", folder=folder, canary=canary)))


PARTS = {"data": data, "presets": presets, "gguf": ggufs, "tasks": tasks, "templates": templates, "models": models}


def main(parts: list[str]) -> int:
    table = Table("hostile inputs")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with workplace() as folder:
        for name in parts or PARTS:
            PARTS[name](table, folder / name)
    return table.end()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", choices=[*PARTS, []])
    sys.exit(main(parser.parse_args().parts))
