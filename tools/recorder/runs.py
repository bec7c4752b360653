"""What runs and ladders compute: a family for each mechanism, settings of training, the demo, and a real model."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from family_checks import write_model
from forked import ftbench

from recorder.normal import columns, digest, normal

METHODS = ("qlora", "lora", "full")
FAMILIES = {
    "llama": "attention, packed exactly",
    "qwen3": "norms of queries and keys",
    "gemma2": "soft-capping, and windows by a mask",
    "gemma3_text": "windows by a mask",
    "gpt2": "learned positions, tied embeddings",
    "bloom": "alibi, padded",
    "qwen3_moe": "mixture of experts",
    "gpt_oss": "experts in one tensor, padded",
    "glm4_moe": "dense layers before experts",
    "qwen3_5": "linear attention, and a vision tower",
    "lfm2": "short convolutions",
    "mamba2": "state space, padded",
}
"""Family -> its mechanism."""
SETTINGS = {
    "fp32": ["train.precision=fp32"],
    "mixed": ["train.precision=mixed"],
    "padded": ["train.packing=padded"],
    "recomputed": ["train.gradient_checkpointing=true"],
    "second layer recomputed": ["train.gradient_checkpointing=2"],
    "compiled": ["train.compile=true"],
    "accumulated": ["train.micro_batch=1"],
    "best weights": ["train.select=best", "train.patience=2", "train.learning_rate=0.05"],
    "linear, warmup": ["train.schedule=linear", "train.warmup_ratio=0.4"],
    "constant, decayed": ["train.schedule=constant", "train.weight_decay=0.1", "train.max_grad_norm=0"],
    "8-bit optimizer": ["optimizer.name=adamw_8bit"],
    "dropout": ["adapter.dropout=0.1"],
    "dora": ["adapter.dora=true", "adapter.rslora=true"],
    "pissa, lora+": ["adapter.init=pissa", "adapter.lora_plus_ratio=4"],
    "two ranks": ["train.devices=2", "hardware.device=cpu:2"],
    "two ranks, sharded": ["train.devices=2", "hardware.device=cpu:2", "train.parallelism=fsdp"],
    "asynchronous checkpoints": ["train.async_checkpoints=true"],
    "another seed": ["train.seed=7", "data.seed=3"],
    "choice": ["evaluation.metric=choice"],
    "open": ["evaluation.metric=open"],
}
"""Name -> settings of training and scoring, each recorded on llama by LoRA, and some by full fine-tuning."""
ALSO_FULL = ("mixed", "padded", "two ranks, sharded", "8-bit optimizer")
STEPS, SAVED = 6, 2
"""Steps of a run, and between checkpoints; a resumed run continues from the first one."""
RUN = [
    "train.batch=4", "train.micro_batch=2", f"train.steps={STEPS}", "train.max_length=64", "train.evaluate_every=2",
    f"train.checkpoint_every={SAVED}", "train.keep_checkpoints=9", "train.async_checkpoints=false",
    "train.learning_rate=0.005", "evaluation.metric=exact_match", "evaluation.max_new_tokens=12", "evaluation.rows=6",
    "evaluation.batch=4", "evaluation.forgetting_text=GENERAL", "hardware.device=cpu",
]  # fmt: skip
UNRECORDED = ("hello", "environment", "memory", "progress", "load", "end")
"""Events of a machine and of time; `result` tells the end."""
IN_DATA = ("prompt", "target", "references", "examples", "columns", "format_reason", "where")
"""Fields of events and answers that the fingerprint of the data stands for."""
IN_EVENTS = (
    "account", "overlap", "fingerprints", "predicted", "name", "warnings", "before", "after", "general",
    "validation_loss", "model", "data",
)  # fmt: skip
"""Fields of `result.json` that events have, too."""
UNTIMED_TOPICS = ("quality", "forgetting", "ship", "caveat")
SMOLLM2 = [
    "train.steps=8", "train.evaluate_every=4", "train.checkpoint_every=4", "train.micro_batch=8", "evaluation.rows=12",
    "evaluation.max_new_tokens=16", "evaluation.batch=8", "evaluation.forgetting_text=none", "data.max_rows=400",
    "hardware.device=cpu", "train.async_checkpoints=false",
]  # fmt: skip
DEMO = Path(__file__).parent / "demo.toml"
"""The demo as it was at f69fcc7. Other programs may run at the same time, as costs are not recorded."""


def run_record(run: Path, home: Path, since: int = 0) -> dict[str, Any]:
    """What a finished run has computed. since: lines of its log that are not of the worker in question."""
    events = list(map(json.loads, (run / "events.jsonl").read_text().splitlines()[since:]))
    told = [event for event in events if event["type"] not in UNRECORDED]
    ordered = (event["type"] for event in told if event["type"] != "checkpoint")  # a thread may write it
    names = [(kind, len(list(group))) for kind, group in itertools.groupby(ordered)]
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for event in told:
        if event["type"] == "plan":  # the probe measures
            event["predictions"] = [peak for peak in event["predictions"] if peak["tier"] != "probe"]
        kept = {key: value for key, value in event.items() if key not in ("type", *IN_DATA)}
        by_kind.setdefault(event["type"], []).append(normal(kept, home))
    result = normal(json.loads((run / "result.json").read_text()), home)
    predictions = run / "predictions.jsonl"
    answers = [json.loads(line) for line in predictions.read_text().splitlines()] if predictions.exists() else []
    return {
        "order": [kind if count == 1 else f"{kind} × {count}" for kind, count in names],
        "events": {kind: columns(of_kind) for kind, of_kind in by_kind.items()},
        "result": {key: value for key, value in result.items() if key not in IN_EVENTS},
        "answers": {
            who: columns({**answer[who], "item": answer["item"]} for answer in answers if answer.get(who))
            for who in ("base", "tuned")
        },
        "weights": {file.name: digest(file) for file in sorted((run / "model").glob("*.safetensors"))},
    }


def succeed(*words: str) -> str:
    """Run ftbench, and return what it printed. Raises RuntimeError where it failed."""
    done = ftbench(*words)
    if done.returncode:
        raise RuntimeError(f"ftbench {' '.join(words)}: {done.stdout[-500:]}{done.stderr[-2000:]}")
    return done.stdout


def set_words(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


def resumed(run: Path, home: Path) -> dict[str, Any]:
    """The rest of a run as if its worker had been killed right after its first checkpoint."""
    copy = run.with_name(f"{run.name[:-4]}{'0' * 4}")
    copy.mkdir(mode=0o700)
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    kept = next(number for number, line in enumerate(lines, 1) if line.startswith('{"type":"checkpoint"'))
    (copy / "events.jsonl").write_text("".join(lines[:kept]))
    shutil.copy(run / "run.toml", copy)
    shutil.copytree(run / "checkpoints" / f"step-{SAVED}", copy / "checkpoints" / f"step-{SAVED}")
    for name in ("initial_adapter", "start"):
        if (run / name).exists():
            shutil.copytree(run / name, copy / name)
    succeed("resume", copy.name, "--json")
    record = run_record(copy, home, since=kept)
    return {**record, "events": {kind: record["events"][kind] for kind in ("step", "eval", "sample", "general")}}


def write_rows(home: Path) -> None:
    """Data of the families: rows of different lengths with two kinds of answers, and the same below a long prompt."""
    rows = []
    for number in range(60):
        words = " ".join(f"w{number * k % 17}" for k in range(number % 9))
        rows.append({"prompt": f"{number} plus {words}?", "completion": "yes" if number % 3 else "no, never"})
    system = " ".join(f"rule {number}" for number in range(4))
    for name, prefix in (("rows", ""), ("prefixed", f"{system}: ")):
        lines = [json.dumps({**row, "prompt": prefix + row["prompt"]}) + "\n" for row in rows]
        (home / f"{name}.jsonl").write_text("".join(lines))
    (home / "general.txt").write_text("The sea was calm.\nA ship went by.\n\nNobody had seen the harbor.\n")


def trained(home: Path, family: str, method: str, settings: list[str], data: str = "rows") -> Path:
    """The directory of a finished run of a family."""
    model = home / "models" / family
    if not model.exists():
        model.mkdir(parents=True)
        write_model(family, model)
    chosen = [*RUN, f"model.id={model}", f"data.id={home / data}.jsonl", *settings]
    words = set_words([setting.replace("GENERAL", str(home / "general.txt")) for setting in last_of(chosen)])
    return home / "runs" / json.loads(succeed("run", "demo", "--method", method, *words, "--json"))["name"]


def last_of(settings: list[str]) -> list[str]:
    """Settings without those that a later one replaces."""
    last = {setting.partition("=")[0]: setting for setting in settings}
    return list(last.values())


def families(home: Path) -> Iterator[tuple[str, Any]]:
    """Each family by each method, complete and resumed; then settings of training."""
    write_rows(home)
    for family, method in itertools.product(FAMILIES, METHODS):
        run = trained(home, family, method, [])
        yield f"{family}/{method}", run_record(run, home)
        yield f"{family}/{method}/resumed", resumed(run, home)


def settings(home: Path) -> Iterator[tuple[str, Any]]:
    """Settings of training, and runs that start from others or were stopped."""
    write_rows(home)
    for name, chosen in SETTINGS.items():
        for method in ("lora", "full") if name in ALSO_FULL else ("lora",):
            run = trained(home, "llama", method, chosen)
            yield f"{name}/{method}", run_record(run, home)
            yield f"{name}/{method}/resumed", resumed(run, home)
    for method in METHODS:
        run = trained(home, "llama", method, ["train.packing=shared_prefix"], "prefixed")
        yield f"shared prefix/{method}", run_record(run, home)
        yield (
            f"started from a run/{method}",
            run_record(trained(home, "llama", method, [f"model.from_run={run}", "train.seed=1"], "prefixed"), home),
        )
    yield "stopped", stopped(home)


def stopped(home: Path) -> dict[str, Any]:
    """A run that was stopped as soon as it had trained a step, and resumed: its steps, whichever was the last."""
    chosen = [*RUN, "train.steps=400", "train.evaluate_every=400", "train.checkpoint_every=400"]
    words = set_words([setting.replace("GENERAL", "none") for setting in last_of(chosen)])
    where = ["--set", f"model.id={home / 'models' / 'llama'}", "--set", f"data.id={home / 'rows.jsonl'}"]
    run = Path(json.loads(succeed("run", "demo", "--method", "lora", *words, *where, "--detach", "--json"))["path"])
    while '"type":"step"' not in (run / "events.jsonl").read_text():
        time.sleep(0.05)
    ended = json.loads(succeed("stop", run.name, "--json"))
    if ended["status"] != "stopped":
        raise RuntimeError(f"the run was not stopped in time: {ended}")
    succeed("resume", run.name, "--json")
    record = run_record(run, home)
    events = record["events"]["step"]
    steps = zip(events["step"], events["loss"], events["grad_norm"], strict=True)
    last = {step: (loss, norm) for step, loss, norm in steps}  # repeated ones once
    return {"steps": list(last.values()), "result": record["result"], "answers": record["answers"]}


def ladder_record(folder: Path, home: Path) -> dict[str, Any]:
    """Scores, comparisons and verdict of a ladder without costs, and what each of its runs has computed."""
    state = json.loads((folder / "ladder.json").read_text())
    state["verdict"] = [said for said in state["verdict"] if said["topic"] in UNTIMED_TOPICS]
    plain = normal(state, home)
    dropped = ("config", "account", "columns", "command", "work")
    return {key: value for key, value in plain.items() if key not in dropped}


def ladder(home: Path, *words: str) -> Iterator[tuple[str, Any]]:
    succeed("ladder", str(DEMO), "--device", "cpu:2", *words, "--json")
    folder = next((home / "runs").glob("*-ladder-*"))
    yield "ladder", ladder_record(folder, home)
    for entry in json.loads((folder / "ladder.json").read_text())["entries"]:
        if entry["kind"] != "probe":
            yield f"{entry['rung']}/seed {entry['seed']}", run_record(home / "runs" / entry["run"], home)


def quick_demo(home: Path) -> Iterator[tuple[str, Any]]:
    """`ftbench demo --quick`: one seed, half the training steps and test rows."""
    yield from ladder(home, "--no-probe", "--set", "train.epochs=1.0", "--set", "evaluation.rows=150")


def complete_demo(home: Path) -> Iterator[tuple[str, Any]]:
    """`ftbench demo`: three seeds."""
    yield from ladder(home, "--seeds", "3")


def smollm2(home: Path, model: Path, data: Path) -> Iterator[tuple[str, Any]]:
    """The three presets of SmolLM2 at 8 steps."""
    for name in ("train.csv", "test.csv"):
        shutil.copy(data / name, home)
    (home / "smollm2").symlink_to(model, target_is_directory=True)
    files = [
        "--model",
        str(home / "smollm2"),
        "--data",
        str(home / "train.csv"),
        "--set",
        f"data.test={home / 'test.csv'}",
    ]
    for method in METHODS:
        done = json.loads(succeed("run", f"smollm2-{method}", *files, *set_words(SMOLLM2), "--json"))
        yield method, run_record(home / "runs" / done["name"], home)
