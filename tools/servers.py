"""Real servers: does each serve what was exported? `ftbench check` answers, for each model and form of artifact.

    python tools/servers.py transformers
    python tools/servers.py vllm --python VLLM/bin/python      # an environment with vLLM
    python tools/servers.py llama --binary FOLDER/llama-server

A LoRA run of each model is trained for some steps, exported, and served; where the server loads an adapter, its base's
name is asked too, which has to be told apart. `embedded` is the model in ftbench, `smollm2` SmolLM2-135M
(`ftbench pull smollm2-135m`), the others are random weights of a family with the embedded tokenizer. Prints a row of a
Markdown table per artifact. The exit status is 1 if an outcome is not the expected one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.assets import tiny_folder

FTBENCH = str(Path(sys.executable).with_name("ftbench"))
SIZES: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", {"sliding_window": 64, "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "qwen3_moe": ("qwen3_moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256}),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 64}),
    "qwen3_5": (
        "qwen3_5_text",
        {"layer_types": ["linear_attention", "full_attention"] * 2, "linear_num_key_heads": 2,
         "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64},
    ),
}  # fmt: skip
MODELS = ("embedded", "smollm2", *FAMILIES)
START_SECONDS = 300
THINGS = ("printer", "router", "laptop", "phone", "scanner")


class Form(NamedTuple):
    """How a run is served."""

    title: str
    export: list[str]
    """Arguments of `ftbench export`."""
    names: dict[str, str]
    """Name of a model on the server -> expected outcome; FOLDER is that of the artifact, BASE the base model's."""
    command: list[str]
    """The server's command line, with FOLDER, BASE, PORT and PROGRAM."""


SERVE = ["PROGRAM", "serve"]
VLLM = [
    *("--host", "127.0.0.1", "--port", "PORT", "--enforce-eager", "--max-model-len", "512"),
    *("--max-num-seqs", "4", "--dtype", "bfloat16"),
]
FORMS: dict[str, list[Form]] = {
    "transformers": [
        Form("merged", [], {"FOLDER": "tuned"}, [*SERVE, "FOLDER", "--port", "PORT", "--device", "cpu"]),
        Form("the base", [], {"BASE": "base"}, [*SERVE, "BASE", "--port", "PORT", "--device", "cpu"]),
    ],
    "vllm": [
        Form("merged", [], {"FOLDER": "tuned"}, [*SERVE, "FOLDER", *VLLM]),
        Form(
            "adapter, `--lora-modules`",
            ["--to", "adapter"],
            {"tuned": "tuned", "BASE": "base"},
            [*SERVE, "BASE", "--enable-lora", "--max-lora-rank", "64", "--lora-modules", "tuned=FOLDER", *VLLM],
        ),
    ],
    "llama": [
        Form(
            f"GGUF {kind}",
            ["--to", "gguf", "--type", kind],
            {"model": "tuned"},
            ["PROGRAM", "-m", "FOLDER/model.gguf", "--jinja", "--port", "PORT", "-c", "4096", "-np", "4"],
        )
        for kind in ("bf16", "q4_k_m")
    ],
}


def ftbench(*words: str, statuses: Sequence[int] = (0,)) -> Any:
    """The JSON of a command. Raises RuntimeError for another exit status."""
    done = subprocess.run([FTBENCH, *words, "--json"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode not in statuses:
        raise RuntimeError(f"ftbench {words[0]}: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def base_folder(name: str, work: Path) -> Path:
    """The folder of a base model."""
    if name == "embedded":
        return tiny_folder()
    if name == "smollm2":
        return Path(ftbench("pull", "smollm2-135m")["folder"])
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = work / name
    folder.mkdir()
    for file in tiny_folder().glob("tokenizer*"):
        shutil.copy(file, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind, changed = FAMILIES[name]
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 1}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=3072, **SIZES, **tokens, **changed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    return folder


def trained_run(base: Path, work: Path, steps: int) -> Path:
    """A LoRA run on a system prompt, questions and sentences as answers."""
    data = work / "rows.jsonl"
    rows = [
        [
            {"role": "system", "content": "You sort tickets."},
            {"role": "user", "content": f"My {thing} {number} is broken."},
            {
                "role": "assistant",
                "content": f"The {thing} {number} goes to the repair queue, and nobody reads it today.",
            },
        ]
        for thing in THINGS
        for number in range(60)
    ]
    data.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    settings = {
        "train.steps": steps,
        "train.evaluate_every": steps,
        "train.batch": 16,
        "train.probe": "false",
        "data.validation": 0.02,
        "data.test": 0.25,
        "evaluation.rows": 40,
        "evaluation.max_new_tokens": 40,
        "evaluation.metric": "exact_match",
        "evaluation.forgetting_text": "none",
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    ftbench("run", "demo-lora", "--model", str(base), "--data", str(data), "--runs", str(work / "runs"), *words)
    return next((work / "runs").iterdir())


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[float]:
    """Start a server and wait until it answers; yields the seconds that takes."""
    offline = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    began = time.monotonic()
    with log.open("w") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | offline, start_new_session=True)
    try:
        while True:
            if server.poll() is not None or time.monotonic() - began > START_SECONDS:
                lines = [line for line in log.read_text(errors="replace").splitlines() if "rror" in line]
                raise RuntimeError(f"does not start: {(lines or ['no message'])[-1][-160:]}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.5)
        yield time.monotonic() - began
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 9)
        server.wait()


def rows_of(engine: str, name: str, program: str, work: Path, steps: int) -> Iterator[tuple[list[str], bool]]:
    """The cells of each artifact of a model, and whether its outcome is as expected."""
    base = base_folder(name, work)
    run = trained_run(base, work, steps)
    for place, form in enumerate(FORMS[engine]):
        folder = work / f"artifact{place}"
        try:
            ftbench("export", str(run), *form.export, "--out", str(folder), statuses=(0, 1))
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            values = {"PROGRAM": program, "FOLDER": str(folder), "BASE": str(base), "PORT": str(port)}

            def filled(word: str, values: dict[str, str] = values) -> str:
                for key, value in values.items():
                    word = word.replace(key, value)
                return word

            with running([*map(filled, form.command)], port, work / f"server{place}.log") as seconds:
                for served, expected in form.names.items():
                    endpoint = f"http://127.0.0.1:{port}/v1#{filled(served)}"
                    check = ftbench("check", endpoint, "--run", str(run), statuses=(0, 1, 3))
                    title = f"{form.title}, base's name" if len(form.names) > 1 and served == "BASE" else form.title
                    counts = f"{check['as_run']} of {check['rows']}"
                    tokens = "equal" if check["prompt_tokens"] == check["expected_prompt_tokens"] else "differ"
                    cells = [name, title, f"{seconds:.0f} s", check["sentence"], counts, tokens]
                    yield cells, check["outcome"] == expected
        except RuntimeError as error:
            yield [name, form.title, "", str(error).replace("|", "/"), "", ""], False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=FORMS)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the server's environment")
    parser.add_argument("--binary", help="llama-server")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    program = options.binary or str(Path(options.python).with_name(options.engine))
    print("| model | artifact | starts | `ftbench check` | answers of the run | prompt tokens |", flush=True)
    print("|---|---|--:|---|--:|---|", flush=True)
    unexpected = 0
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="ftbench-servers-") as folder:
            try:
                for cells, is_expected in rows_of(options.engine, name, program, Path(folder), options.steps):
                    unexpected += not is_expected
                    print(f"| {' | '.join(cells)} |{'' if is_expected else ' unexpected'}", flush=True)
            except RuntimeError as error:
                unexpected += 1
                print(f"| {name} | | | {error} | | | unexpected", flush=True)
    return int(unexpected > 0)


if __name__ == "__main__":
    sys.exit(main())
