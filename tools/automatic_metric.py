"""Which metric `evaluation.metric = "auto"` decides for public datasets of known kind, as a Markdown table.

`python tools/automatic_metric.py [--mirror FOLDER] [--local FOLDER]`: samples of at most ROWS rows are fetched
from raw.githubusercontent.com, or read from git directories FOLDER/OWNER+NAME/repo; `--local` has the folders gsm8k,
banking77 and wikisql. Nothing is kept. Ends with 1 if a metric is not one of the right ones.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from engine.config.schema import Data, Model
from engine.data.prepare import prepare
from engine.evaluation.preflight import AnswerProfile
from engine.methods.model_source import load_tokenizer

ROWS = 1000
Rows = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Dataset:
    """A file of a public repository, how its rows are read, and the metrics that fit its answers."""

    name: str
    repository: str
    path: str
    right: tuple[str, ...]
    read: Callable[[str], Rows]


def listed(text: str) -> Rows:
    """A JSON array of rows."""
    rows: Rows = json.loads(text)
    return rows


def lines(text: str) -> Rows:
    return (json.loads(line) for line in text.splitlines() if line.strip())


def pairs(prompt: str, answer: str, rows: Callable[[str], Rows] = listed) -> Callable[[str], Rows]:
    """Two columns as prompt and completion."""
    return lambda text: ({"prompt": str(row[prompt]), "completion": str(row[answer])} for row in rows(text))


def table(text: str) -> Rows:
    return csv.DictReader(io.StringIO(text))


def big_bench(text: str) -> Rows:
    return ({"prompt": row["input"], "completion": row["target"]} for row in json.loads(text)["examples"])


def clinc(text: str) -> Rows:
    return ({"prompt": asked, "completion": intent} for asked, intent in json.loads(text)["train"])


def squad(text: str) -> Rows:
    for article in json.loads(text)["data"]:
        for passage in article["paragraphs"]:
            for asked in passage["qas"]:
                prompt = f"{passage['context']}\n{asked['question']}"
                yield {"prompt": prompt, "completion": asked["answers"][0]["text"]}


def pubmed(answer: str) -> Callable[[str], Rows]:
    return lambda text: (
        {"prompt": f"{' '.join(row['CONTEXTS'])}\n{row['QUESTION']}", "completion": row[answer]}
        for row in json.loads(text).values()
    )


def shared(text: str) -> Rows:
    """Rows of LLaMA-Factory, which ftbench reads by itself."""
    return listed(text) if text.lstrip().startswith("[") else lines(text)


def seeds(text: str) -> Rows:
    return ({"prompt": row["instruction"], "completion": row["instances"][0]["output"]} for row in lines(text))


_BBH, _FACTORY = "suzgunmirac/BIG-Bench-Hard", "hiyouga/LLaMA-Factory"
_CHOICES = (
    "boolean_expressions", "causal_judgement", "date_understanding", "disambiguation_qa", "formal_fallacies",
    "geometric_shapes", "hyperbaton", "logical_deduction_five_objects", "movie_recommendation", "navigate",
    "penguins_in_a_table", "reasoning_about_colored_objects", "ruin_names", "salient_translation_error_detection",
    "snarks", "sports_understanding", "temporal_sequences", "tracking_shuffled_objects_five_objects", "web_of_lies",
)  # fmt: skip
_DIALOGSUM, _PUBMED, _GPT = "DialogSum_Data/dialogsum.dev.jsonl", "data/ori_pqal.json", "teknium1/GPTeacher"
_ROLEPLAY = "Roleplay/roleplay-simple-deduped-roleplay-instruct.json"
_ASKED = pairs("instruction", "response")
DATASETS = [
    *(Dataset(f"BBH {name}", _BBH, f"bbh/{name}.json", ("choice",), big_bench) for name in _CHOICES),
    *(
        Dataset(f"BBH {name}", _BBH, f"bbh/{name}.json", ("number",), big_bench)
        for name in ("multistep_arithmetic_two", "object_counting")
    ),
    Dataset("BBH dyck_languages", _BBH, "bbh/dyck_languages.json", ("exact_match",), big_bench),
    Dataset("BBH word_sorting", _BBH, "bbh/word_sorting.json", ("exact_match", "open"), big_bench),
    Dataset("Alpaca, English", _FACTORY, "data/alpaca_en_demo.json", ("open",), shared),
    Dataset("Alpaca, Chinese", _FACTORY, "data/alpaca_zh_demo.json", ("open",), shared),
    Dataset("identity", _FACTORY, "data/identity.json", ("open",), shared),
    Dataset("Glaive calls, English", _FACTORY, "data/glaive_toolcall_en_demo.json", ("tool_calls",), shared),
    Dataset("Glaive calls, Chinese", _FACTORY, "data/glaive_toolcall_zh_demo.json", ("tool_calls",), shared),
    Dataset("C4", _FACTORY, "data/c4_demo.jsonl", ("loss",), shared),
    Dataset("LLaMA-Factory v1 chats", _FACTORY, "data/v1_sft_demo.jsonl", ("open",), shared),
    Dataset("DPO, chosen answers", _FACTORY, "data/dpo_en_demo.json", ("open",), shared),
    Dataset("DialogSum", "cylnlp/dialogsum", _DIALOGSUM, ("open",), pairs("dialogue", "summary", lines)),
    Dataset("DialogSum topics", "cylnlp/dialogsum", _DIALOGSUM, ("exact_match",), pairs("dialogue", "topic", lines)),
    Dataset("PubMedQA decisions", "pubmedqa/pubmedqa", _PUBMED, ("choice",), pubmed("final_decision")),
    Dataset("PubMedQA long answers", "pubmedqa/pubmedqa", _PUBMED, ("open",), pubmed("LONG_ANSWER")),
    Dataset("XQuAD, English", "deepmind/xquad", "xquad.en.json", ("exact_match",), squad),
    Dataset("XQuAD, Chinese", "deepmind/xquad", "xquad.zh.json", ("exact_match",), squad),
    Dataset("CLINC150", "clinc/oos-eval", "data/data_small.json", ("choice",), clinc),
    Dataset("GPTeacher code", _GPT, "Codegen/codegen-instruct.json", ("open",), _ASKED),
    Dataset("GPTeacher roleplay", _GPT, _ROLEPLAY, ("open",), _ASKED),
    Dataset("SVAMP", "arkilpatel/SVAMP", "SVAMP.json", ("number",), pairs("Question", "Answer")),
    Dataset(
        "ASDiv-A", "arkilpatel/SVAMP", "data/cv_asdiv-a/fold0/dev.csv", ("number",), pairs("Question", "Answer", table)
    ),
    Dataset("seed tasks", "tatsu-lab/stanford_alpaca", "seed_tasks.jsonl", ("open",), seeds),
    Dataset("E2E", "tuetschek/e2e-dataset", "devset.csv", ("open",), pairs("mr", "ref", table)),
    Dataset("GSM8K", "", "gsm8k/test.jsonl", ("number",), pairs("question", "answer", lines)),
    Dataset("Banking77", "", "banking77/test.csv", ("choice",), pairs("text", "category", table)),
    Dataset("WikiSQL as plain text", "", "wikisql/test.jsonl", ("loss",), shared),
]


def content(dataset: Dataset, mirror: Path | None, local: Path | None) -> str | None:
    """The file's text; None for one of a local folder that was not given."""
    if not dataset.repository:
        return (local / dataset.path).read_text("utf-8") if local else None
    if mirror:
        git = mirror / dataset.repository.replace("/", "+") / "repo"
        show = ["git", "-C", str(git), "show", f"HEAD:{dataset.path}"]
        return subprocess.run(show, capture_output=True, check=True).stdout.decode("utf-8")
    url = f"https://raw.githubusercontent.com/{dataset.repository}/HEAD/{urllib.parse.quote(dataset.path)}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode("utf-8")
        return text


def profile(rows: Rows, folder: Path) -> AnswerProfile:
    """What ftbench finds in the training answers of these rows."""
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in islice(rows, ROWS)), "utf-8")
    tokenizer = load_tokenizer(Model(chat_template="tools-plain"))
    data = Data(id=str(file))
    try:
        return AnswerProfile.of(prepare(data, 8192, tokenizer).train)
    except Exception as error:  # a preference dataset: its chosen answers
        if getattr(error, "code", "") != "data.preference_data":
            raise
        return AnswerProfile.of(prepare(Data(id=str(file), format="chosen"), 8192, tokenizer).train)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--local", type=Path)
    options = parser.parse_args()
    print("| dataset | answers | words, median (90%) | distinct | metric | right |\n|---|---|---|---|---|---|")
    wrong = 0
    for dataset in DATASETS:
        text = content(dataset, options.mirror, options.local)
        if text is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            summary = profile(dataset.read(text), Path(folder))
        metric = summary.choose().metric
        wrong += metric not in dataset.right
        right = "yes" if metric in dataset.right else f"no: {' or '.join(dataset.right)}"
        spread = f"{summary.words} ({summary.many_words})"
        print(
            f"| {dataset.name} | {summary.answers} | {spread} | {summary.distinct} | {metric} | {right} |", flush=True
        )
    print(f"\n{wrong} of {len(DATASETS)} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
