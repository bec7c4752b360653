"""Peak memory and time of merging an adapter, against PEFT's `merge_and_unload` and `save_pretrained`; prints a table.

    python tests/bench/export.py --model SMOLLM2 --rounds 3
    python tests/bench/export.py --shape 1.5b --rounds 3

`--model` is a folder of safetensors; `--shape 1.5b` writes a model of Qwen2.5-1.5B's shape with random bf16 weights to
a temporary folder (3 GB). The adapter has random weights, rank 16 on all linear layers. Each merge is a new process;
the two alternate. Peaks are resident sets (VmHWM) above the process with all libraries imported, relative to the bytes
of the base's weights. Resident pages of memory-mapped weight files count, as the kernel counts them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "peers"), str(HERE.parents[1])]

from measure import reset_resident_peak, resident_peak  # noqa: E402 - the path above makes it importable

SHAPES = {
    "1.5b": {
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32_768,
        "tie_word_embeddings": True,
    }
}
MIB = 2**20


def write_model(shape: str, folder: Path) -> None:
    """A model with random weights, written layer by layer so that this program stays small."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**SHAPES[shape], dtype="bfloat16")
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder, max_shard_size="1GB")
    (folder / "tokenizer.json").write_text("{}")


def write_adapter(model: Path, folder: Path) -> None:
    """An adapter with random weights on all linear layers."""
    import peft
    import torch
    from transformers import AutoConfig

    from engine.export.merged import plain_model

    wrapped = peft.get_peft_model(
        plain_model(AutoConfig.from_pretrained(model)),
        peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
        low_cpu_mem_usage=True,
    )
    from safetensors.torch import save_file

    state = {
        name.replace(".default", ""): torch.randn(tensor.shape) * 0.02
        for name, tensor in wrapped.named_parameters()
        if "lora_" in name
    }
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    wrapped.peft_config["default"].base_model_name_or_path = str(model)
    wrapped.peft_config["default"].save_pretrained(folder)


def ours(model: Path, adapter: Path, out: Path) -> None:
    """As `ftbench export --to merged`, without the check."""
    from engine.config.schema import Model
    from engine.export.merged import DTYPES, Merge, plain_model, write_weights
    from engine.export.tensors import base_tensors
    from engine.methods.model_config import config_of

    base = Model(id=str(model))
    plain = plain_model(config_of(base))
    write_weights(Merge(plain, base_tensors(base, plain), adapter), DTYPES["bf16"], out)


def pefts(model: Path, adapter: Path, out: Path) -> None:
    """As PEFT's documentation merges."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(out, max_shard_size="1GB")


WAYS = {"ftbench": ours, "PEFT": pefts}


def one(way: str, model: Path, adapter: Path) -> None:
    """In a new process: print {"seconds", "peak"} of one merge."""
    import peft  # noqa: F401 - imports are not part of the measurement
    import transformers  # noqa: F401

    import engine.export.merged
    import engine.export.tensors  # noqa: F401

    with tempfile.TemporaryDirectory(dir=model.parent) as out:
        reset_resident_peak()
        before, started = resident_peak(), time.monotonic()
        WAYS[way](model, adapter, Path(out))
        print(json.dumps({"seconds": time.monotonic() - started, "peak": resident_peak() - before}))


def main() -> None:
    """Alternate the two ways and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--shape", choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], options.model, Path(options.one[1]))
        return
    with tempfile.TemporaryDirectory() as work:
        model = options.model.resolve() if options.model else Path(work) / "model"
        if options.shape:
            write_model(options.shape, model)
        adapter = Path(work) / "adapter"
        write_adapter(model, adapter)
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for number in range(options.rounds):
            for way in list(WAYS)[:: 1 if number % 2 else -1]:
                command = [sys.executable, __file__, "--model", str(model), "--one", way, str(adapter)]
                done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                found[way].append(json.loads(done.stdout.splitlines()[-1]))
    print(f"{options.shape or model.name}, base {size / MIB:,.0f} MiB, median of {options.rounds} (range)\n")
    print("| merge | seconds | peak, MiB | peak ÷ base |\n|---|---|---|---|")
    for way, runs in found.items():
        seconds, peaks = [run["seconds"] for run in runs], [run["peak"] for run in runs]
        spread = f"{median(seconds):.1f} ({min(seconds):.1f}–{max(seconds):.1f})"
        print(f"| {way} | {spread} | {median(peaks) / MIB:,.0f} | {median(peaks) / size:.2f} |")


if __name__ == "__main__":
    main()
