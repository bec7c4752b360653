"""Answers of exported artifacts in environments without ftbench, compared with those that the run recorded.

    python3 -m venv PLAIN && PLAIN/bin/pip install torch transformers peft
    PLAIN/bin/python tests/bench/fresh_artifacts.py RUN/exports/adapter RUN/exports/merged-bf16 --run RUN
    python3 -m venv LLAMA && LLAMA/bin/pip install llama-cpp-python
    LLAMA/bin/python tests/bench/fresh_artifacts.py RUN/exports/gguf-q8_0 --run RUN

Imports only the standard library and what the artifact needs: PEFT for an adapter, transformers for merged and full
weights, llama-cpp-python for GGUF. Prompts are the texts in the run's predictions.jsonl, with greedy decoding, one at a
time. The column "as ftbench" is the share that ftbench's own check found identical, on all test items.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

Answer = Callable[[str], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=16, help="evaluation.max_new_tokens of the run")
    parser.add_argument("--dtype", default="auto", help="of weights in transformers and PEFT, as float32")
    parser.add_argument("--nf4", action="store_true", help="load an adapter's base in 4 bits, as QLoRA trains it")
    options = parser.parse_args()
    lines = (options.run / "predictions.jsonl").read_text("utf-8").splitlines()[: options.items]
    items = [json.loads(line) for line in lines]
    print(
        "| artifact | loaded by | items | identical to the run | correct | correct in the run | identical, as ftbench |"
    )
    print("|---|---|---|---|---|---|---|")
    for folder in options.artifacts:
        library, answer = load(folder, options)
        outputs = [answer(item["prompt"]) for item in items]
        same = sum(output == item["tuned"]["output"] for output, item in zip(outputs, items, strict=True))
        correct = sum(output.strip() == item["target"].strip() for output, item in zip(outputs, items, strict=True))
        before = sum(item["tuned"]["output"].strip() == item["target"].strip() for item in items)
        known = json.loads((folder / "fidelity.json").read_text())["identical"]
        cells = (f"`{folder.name}`", library, len(items), same, correct, before, f"{known:.1%}")
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def load(folder: Path, options: argparse.Namespace) -> tuple[str, Answer]:
    """(library with its version, function that answers a prompt)."""
    if (folder / "model.gguf").exists():
        return load_gguf(folder / "model.gguf", options.tokens)
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = f"transformers {transformers.__version__}"
    if (folder / "adapter_config.json").exists():
        import peft
        from peft import AutoPeftModelForCausalLM

        name, more = f"PEFT {peft.__version__}", {}
        if options.nf4:
            dtype = torch.bfloat16 if options.dtype == "auto" else getattr(torch, options.dtype)
            four_bits = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
            more["quantization_config"] = transformers.BitsAndBytesConfig(**four_bits, bnb_4bit_compute_dtype=dtype)
            name += ", base in 4 bits"
        model = AutoPeftModelForCausalLM.from_pretrained(folder, dtype=options.dtype, **more)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=options.dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.inference_mode()
    def answer(prompt: str) -> str:
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")
        output = model.generate(**ids, max_new_tokens=options.tokens, do_sample=False)
        return str(tokenizer.decode(output[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))

    return name, answer


def load_gguf(file: Path, tokens: int) -> tuple[str, Answer]:
    import llama_cpp

    model = llama_cpp.Llama(str(file), n_ctx=1024, verbose=False)

    def answer(prompt: str) -> str:
        ids = model.tokenize(prompt.encode(), add_bos=False, special=True)
        done = model.create_completion(ids, max_tokens=tokens, temperature=0.0)
        return str(done["choices"][0]["text"])

    return f"llama-cpp-python {llama_cpp.__version__}", answer


if __name__ == "__main__":
    main()
