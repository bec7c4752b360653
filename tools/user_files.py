"""What ftbench makes of files as users bring them: the structure of public sets, and the formats of other programs.

`python tools/user_files.py [NAME …]`: writes each file to a temporary folder, prepares it without settings, and prints
a Markdown table. A file is *read right* if its first rows have the expected prompts and answers and the automatic
metric is the expected one; *refused well* if the error says what to do and that leads there; else *unhelpful*, or
*wrong*.
Texts are made here; only structure and column names are those of the sets. Ends with 1 if a file is wrong.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.schema import Data, Model
from engine.data.prepare import prepare
from engine.data.rows import Row
from engine.evaluation.preflight import AnswerProfile
from engine.methods.model_source import load_tokenizer

ROWS = 120
SHOWN = 5
RANDOM = random.Random(0)
WORDS = (
    *("river", "stone", "lamp", "garden", "winter", "paper", "engine", "bridge", "silver", "market", "forest"),
    *("window", "copper", "harbor", "velvet", "walks", "reads", "finds", "opens", "paints", "carries"),
    *("sells", "mends", "watches", "the", "a", "this", "every", "quiet", "early", "green"),
)


def text(words: int = 8) -> str:
    return " ".join(RANDOM.choice(WORDS) for _ in range(words))


def long(words: int = 45) -> str:
    return text(words) + "."


def label(*names: str) -> str:
    return RANDOM.choice(names)


@dataclass
class Case:
    """A file: what is written, and what its rows should be."""

    name: str
    write: Callable[[Path], Path]
    pairs: list[tuple[str, str]]
    """(part of the prompt, answer) of the first rows; the prompt '' for plain text."""
    metric: str = ""
    follow: Callable[[Path, UserError], Path] | None = None
    """Does what the advice says to the file; without it the advice has settings, which are applied."""
    settings: dict[str, Any] = field(default_factory=dict)


CASES: list[Case] = []


def case(
    name: str, rows: list[Any], pairs: list[tuple[str, str]], metric: str = "", file: str = "a.jsonl", **more: Any
) -> None:
    CASES.append(Case(name, lambda folder: written(folder / file, rows), pairs[:SHOWN], metric, **more))


def written(path: Path, rows: list[Any]) -> Path:
    """Rows in the format of the file's suffix."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False), "utf-8")
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text(as_csv(rows, "\t" if path.suffix == ".tsv" else ","), "utf-8")
    return path


def as_csv(rows: list[Any], mark: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> str:
    out = io.StringIO()
    names = list(rows[0])
    writer = csv.DictWriter(out, names, delimiter=mark, quoting=quoting)
    writer.writeheader()
    cells = [{k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()} for row in rows]
    writer.writerows(cells)
    return out.getvalue()


def named(prompt: str, answer: str, **more: Callable[[], Any]) -> None:
    """Sets whose rows are a prompt, a long answer and further columns."""
    rows = [{prompt: f"{text()} {n}?", answer: long(), **{k: v() for k, v in more.items()}} for n in range(ROWS)]
    case(f"{prompt} and {answer}", rows, [(row[prompt], row[answer]) for row in rows], "open")


def pairs_of_names() -> None:
    number = iter(range(10**6))
    named("prompt", "completion")
    named("question", "answer", id=lambda: next(number))
    named("instruction", "response", category=lambda: label("open_qa", "creative"))
    named("instruction", "output")
    named("query", "response")
    named("problem", "solution", level=lambda: label("Level 1", "Level 5"), type=lambda: label("Algebra", "Geometry"))
    named("input", "target")
    named("source", "target")
    named("user", "assistant")
    named("src", "tgt", _id=lambda: str(next(number)), task=lambda: label("gec", "simplification", "clarity"))
    named("article", "highlights", id=lambda: f"{next(number):x}")
    named("document", "summary")
    named("dialogue", "summary", id=lambda: str(next(number)))
    named(
        "prompt",
        "canonical_solution",
        task_id=lambda: f"Eval/{next(number)}",
        entry_point=lambda: "f",
        test=lambda: f"def check(f): assert f({next(number)})",
    )
    named("Question", "Answer", qtype=lambda: label("symptoms", "treatment"))
    named("question", "query", db_id=lambda: label("shop", "school", "zoo"), sql=lambda: {"from": [next(number)]})
    named("question", "sql")
    named("instruction", "code_solution")
    named("source_text", "target_text")
    named("problem_statement", "final_answer")
    named("user_input", "model_output")
    named("Prompt", "Response")
    named("question_text", "answer_text")


def classification() -> None:
    rows: list[dict[str, Any]]
    names = ("refund", "delivery", "account")
    for column, target in (
        ("text", "label"), ("text", "intent"), ("sentence", "label"), ("utterance", "category"),
        ("review", "sentiment"), ("tweet", "class"), ("content", "label"), ("message", "intent"),
        ("text", "label_text"),
    ):  # fmt: skip
        rows = [{column: f"{text()} {n}", target: label(*names)} for n in range(ROWS)]
        case(f"{column} and {target}", rows, [(row[column], row[target]) for row in rows], "choice")
    rows = [{"text": f"{text()} {n}", "label": n % 4, "label_text": label(*names)} for n in range(ROWS)]
    case("number and name of a label", rows, [(row["text"], row["label_text"]) for row in rows], "choice")
    rows = [{"text": f"{text()} {n}", "labels": RANDOM.sample(names, n % 3)} for n in range(ROWS)]
    expected = [(row["text"], json.dumps(row["labels"])) for row in rows]
    case("several labels (go_emotions)", rows, expected, "set")
    case(
        "several labels, numbers",
        [{**row, "labels": [names.index(x) for x in row["labels"]]} for row in rows],
        [(row["text"], json.dumps([names.index(x) for x in row["labels"]])) for row in rows],
        "set",
    )
    case("several labels, csv", rows, expected, "set", file="a.csv")
    rows = [{"abstract": long(), "categories": RANDOM.sample(names, 2)} for n in range(ROWS)]
    case("categories of abstracts (arXiv)", rows, [(r["abstract"], json.dumps(r["categories"])) for r in rows], "set")
    for one, other, target, values in (
        ("premise", "hypothesis", "label", ("entailment", "neutral", "contradiction")),
        ("sentence1", "sentence2", "label", ("paraphrase", "other")), ("sentence1", "sentence2", "score", ()),
        ("question1", "question2", "is_duplicate", ("0", "1")), ("question", "sentence", "label", ("yes", "no")),
        ("text_a", "text_b", "label", ("same", "other")), ("claim", "evidence", "label", ("supports", "refutes")),
        ("sentence_A", "sentence_B", "relatedness_score", ()),
    ):  # fmt: skip
        rows = [
            {one: f"{text()} {n}", other: f"{text()} {n}", target: label(*values) if values else f"{n * 7 % 50 / 10}"}
            for n in range(ROWS)
        ]
        expected = [(f"{one}: {row[one]}\n{other}: {row[other]}", row[target]) for row in rows]
        case(f"{one}, {other} and {target}", rows, expected, "choice" if values else "number")


def multiple_choice() -> None:
    def add(
        name: str,
        options: Callable[[list[str]], dict[str, Any]],
        answer: Callable[[int, list[str]], Any],
        column: str = "answer",
        count: int = 4,
        question: str = "question",
        **more: Any,
    ) -> None:
        rows, expected = [], []
        for n in range(ROWS):
            texts, right = [f"{text(3)} {x}" for x in range(count)], (n * 7) % count
            row = {question: f"{text()} {n}?", **{k: v() for k, v in more.items()}, **options(texts)}
            rows.append({**row, column: answer(right, texts)})
            listed = "\n".join(f"{'ABCDE'[x]}. {option}" for x, option in enumerate(texts))
            expected.append((f"{row[question]}\n{listed}", "ABCDE"[right]))
        case(name, rows, expected, "choice")

    def letters(texts: list[str]) -> dict[str, str]:
        return dict(zip("ABCDE", texts, strict=False))

    add("MMLU", lambda t: {"choices": t}, lambda right, t: right, subject=lambda: "law")
    add(
        "ARC",
        lambda t: {"choices": {"text": t, "label": list("ABCD")}},
        lambda right, t: "ABCD"[right],
        "answerKey",
        id=lambda: "Mercury_7",
    )
    add(
        "ARC with numbers",
        lambda t: {"choices": {"text": t, "label": list("1234")}},
        lambda right, t: "1234"[right],
        "answerKey",
    )
    add(
        "CommonsenseQA",
        lambda t: {"choices": {"label": list("ABCDE"), "text": t}},
        lambda right, t: "ABCDE"[right],
        "answerKey",
        5,
        question_concept=lambda: text(1),
    )
    add(
        "OpenBookQA",
        lambda t: {"choices": {"text": t, "label": list("ABCD")}},
        lambda right, t: "ABCD"[right],
        "answerKey",
        question="question_stem",
    )
    add(
        "MathQA",
        lambda t: {"options": " , ".join(f"{x} ) {o}" for x, o in zip("abcde", t, strict=True))},
        lambda right, t: "abcde"[right],
        "correct",
        5,
        "Problem",
        Rationale=long,
        category=lambda: "gain",
    )
    add(
        "AQuA",
        lambda t: {"options": [f"{x}){o}" for x, o in zip("ABCDE", t, strict=True)]},
        lambda right, t: "ABCDE"[right],
        "correct",
        5,
        rationale=long,
    )
    add("RACE", lambda t: {"options": t}, lambda right, t: "ABCD"[right], article=long, example_id=lambda: "high1.txt")
    add("MedQA", lambda t: {"options": letters(t)}, lambda right, t: "ABCD"[right], "answer_idx", meta_info=lambda: "s")
    add("MedMCQA", lambda t: dict(zip(("opa", "opb", "opc", "opd"), t, strict=True)), lambda right, t: right, "cop")
    add("HellaSwag", lambda t: {"endings": t}, lambda right, t: str(right), "label", question="ctx")
    add("PIQA", lambda t: {"sol1": t[0], "sol2": t[1]}, lambda right, t: right, "label", 2, "goal")
    add(
        "WinoGrande",
        lambda t: {"option1": t[0], "option2": t[1]},
        lambda right, t: str(right + 1),
        count=2,
        question="sentence",
    )
    add(
        "SWAG",
        lambda t: {f"ending{n}": o for n, o in enumerate(t)},
        lambda right, t: right,
        "label",
        question="sentence",
    )
    add("columns A to D", letters, lambda right, t: "ABCD"[right])
    add("options with the answer's text", lambda t: {"options": t}, lambda right, t: t[right])
    add(
        "SciQ-like option columns",
        lambda t: {f"option_{x}": o for x, o in zip("abcd", t, strict=True)},
        lambda right, t: "abcd"[right],
        "correct_answer",
    )


def answers_of_other_kinds() -> None:
    rows: list[dict[str, Any]]
    rows = [{"question": f"{text()} {n}?", "answer": f"{text(12)} <<1+2=3>>\n#### {n * 3}"} for n in range(ROWS)]
    case("GSM8K", rows, [(row["question"], row["answer"]) for row in rows], "number")
    rows = [{"problem": f"{text()} {n}", "solution": f"{text(12)} $\\boxed{{{n}}}$"} for n in range(ROWS)]
    case("numbers in boxes", rows, [(row["problem"], row["solution"]) for row in rows], "number")
    rows = [{"problem": f"{text()} {n}", "solution": f"{text(12)} $\\boxed{{x^{{{n}}}+y}}$"} for n in range(ROWS)]
    case("MATH", rows, [(row["problem"], row["solution"]) for row in rows], "boxed")
    for name, form in (("objects", "{}"), ("objects in blocks of code", "```json\n{}\n```")):
        rows = [
            {"prompt": f"{text()} {n}", "completion": form.replace("{}", json.dumps({"city": text(1), "n": n}))}
            for n in range(ROWS)
        ]
        case(name, rows, [(row["prompt"], row["completion"]) for row in rows], "json")
    numbers = [f"{n + 1}.{n % 100:02},{n % 90 + 10} €".replace(".", "", 1) for n in range(ROWS)]
    rows = [{"question": f"{text()} {n}", "answer": numbers[n]} for n in range(ROWS)]
    case("decimal commas", rows, [(row["question"], row["answer"]) for row in rows], "number_comma")
    rows = [{"question": f"{text()} {n}", "answer": f"{n * 613 % 10000:05}"} for n in range(ROWS)]
    case("codes with leading zeros", rows, [(row["question"], row["answer"]) for row in rows], "exact_match")
    rows = [{"question": f"{text()} {n}?", "answers": [f"{text(2)} {n}", text(1)]} for n in range(ROWS)]
    case("accepted answers (TriviaQA-like)", rows, [(r["question"], r["answers"][0]) for r in rows], "exact_match")
    rows = [
        {"context": long(), "question": f"{text()} {n}?", "answers": {"text": [f"{text(2)} {n}"], "answer_start": [3]}}
        for n in range(ROWS)
    ]
    case("SQuAD rows", rows, [(row["question"], row["answers"]["text"][0]) for row in rows], "exact_match")
    article = {"title": "t", "paragraphs": [
        {"context": long(), "qas": [{"question": f"{text()} {n}?", "id": str(n), "answers": [{"text": f"{text(2)} {n}",
                                                                                            "answer_start": 0}]}]}
        for n in range(ROWS)
    ]}  # fmt: skip
    expected = [(p["qas"][0]["question"], p["qas"][0]["answers"][0]["text"]) for p in article["paragraphs"]]
    CASES.append(
        Case(
            "SQuAD file",
            lambda folder: written(folder / "a.json", {"version": "1.1", "data": [article]}),
            expected[:SHOWN],
            "exact_match",
        )
    )
    rows = [
        {"id": f"seed_task_{n}", "name": text(1), "instruction": f"{text()} {n}", "is_classification": False,
         "instances": [{"input": text(5), "output": long()}]} for n in range(ROWS)
    ]  # fmt: skip
    case("seed tasks", rows, [(row["instruction"], row["instances"][0]["output"]) for row in rows], "open")
    rows = [{"mr": f"name[{text(1)}], area[{n}]", "ref": long()} for n in range(ROWS)]
    case("e2e", rows, [(row["mr"], row["ref"]) for row in rows], "open")
    rows = [
        {"text": f"{text()} {n}", "code": f"def f{n}():\n    return {text(25)!r}", "task_id": n,
         "test_list": ["assert f()"], "test_setup_code": "", "challenge_test_list": []} for n in range(ROWS)
    ]  # fmt: skip
    case("MBPP", rows, [(row["text"], row["code"]) for row in rows], "open")
    rows = [
        {"question": f"{text()} {n}", "answer": long(), "focus": text(1), "url": f"http://x/{n}"} for n in range(ROWS)
    ]
    case("MedQuAD", rows, [(row["question"], row["answer"]) for row in rows], "open")
    rows = [{"Frage": f"{text()} {n}?", "Antwort": f"{text(30)}"} for n in range(ROWS)]
    case("names in another language", rows, [(row["Frage"], row["Antwort"]) for row in rows], "open")
    rows = [{"question": f"{text(6)} {n}?", "Notiz": text(9), "Kommentar": text(9)} for n in range(ROWS)]
    for row in rows:
        row["Erwiderung"] = f"{row['question'][:20]} {text(20)}"
    case("an answer that only its words show", rows, [(r["question"], r["Erwiderung"]) for r in rows], "open")


def chats() -> None:
    def turns(
        n: int, role: str = "role", content: str = "content", user: str = "user", model: str = "assistant"
    ) -> Any:
        return [{role: user, content: f"{text()} {n}"}, {role: model, content: long()}]

    def add(name: str, rows: list[Any], of: Callable[[Any], Any], file: str = "a.jsonl", metric: str = "open") -> None:
        def said(turn: dict[str, Any]) -> str:
            return str(turn.get("content", turn.get("value", turn.get("text"))))

        case(name, rows, [(said(of(row)[-2]), said(of(row)[-1])) for row in rows], metric, file)

    rows: list[Any] = [{"messages": turns(n)} for n in range(ROWS)]
    add("messages (OpenAI)", rows, lambda row: row["messages"])
    add("messages as an array", rows, lambda row: row["messages"], "a.json")
    add("messages in parquet", rows, lambda row: row["messages"], "a.parquet")
    add("messages as JSON text in CSV", rows, lambda row: row["messages"], "a.csv")
    rows = [{"conversations": turns(n, "from", "value", "human", "gpt")} for n in range(ROWS)]
    add("ShareGPT", rows, lambda row: row["conversations"])
    rows = [turns(n) for n in range(ROWS)]
    add("lists of messages", rows, lambda row: row)
    rows = [{"dialog": [{"role": "system", "content": "Be brief."}, *turns(n), *turns(n)]} for n in range(ROWS)]
    add("several turns", rows, lambda row: row["dialog"])
    columns = [
        {"conversations": {"from": ["system", "user", "assistant"], "value": ["s", f"{text()} {n}", long()]}}
        for n in range(ROWS)
    ]
    case(
        "ToolBench (messages as columns)",
        columns,
        [(c["conversations"]["value"][1], c["conversations"]["value"][2]) for c in columns],
        "open",
    )
    rows = [{"messages": [*turns(n), {"role": "user", "content": "and?"}]} for n in range(ROWS)]
    add("a last turn without an answer", rows, lambda row: row["messages"][:-1])
    tools = [{"name": "track", "description": "Track", "parameters": {"order": {"type": "str"}}}]
    calls = [
        {"id": n, "query": f"{text()} {n}", "answers": [{"name": "track", "arguments": {"order": f"A{n}"}}],
         "tools": tools} for n in range(ROWS)
    ]  # fmt: skip
    as_text = [{**c, "answers": json.dumps(c["answers"]), "tools": json.dumps(tools)} for c in calls]
    expected = [(c["query"], f"A{c['id']}") for c in calls]
    for name, rows in (("calls as answers", calls), ("xLAM", as_text)):
        case(name, rows, expected, "tool_calls")
        CASES[-1].settings = {"template": "tools-plain"}
    tree = []
    for n in range(ROWS):
        for number, (parent, role) in enumerate(((None, "prompter"), (0, "assistant"), (0, "assistant"))):
            tree.append(
                {"message_id": f"{n}-{number}", "parent_id": None if parent is None else f"{n}-{parent}",
                 "text": long() if number else f"{text()} {n}", "role": role, "message_tree_id": f"{n}-0", "lang": "en"}
            )  # fmt: skip
    trees = [(tree[at - at % 3]["text"], tree[at]["text"]) for at in range(len(tree)) if at % 3]
    case("OpenAssistant", tree, trees, "open")
    history = [{"instruction": f"{text()} {n}", "output": long(), "history": [["a?", "b."]]} for n in range(ROWS)]
    case("history", history, [(row["instruction"], row["output"]) for row in history], "open")
    rows = [{"prompt": f"{text()} {n}", "chosen": long(), "rejected": long()} for n in range(ROWS)]
    case("preference data", rows, [(row["prompt"], row["chosen"]) for row in rows], "open")
    rows = [{"prompt": f"{text()} {n}", "completion": long(), "label": n % 2 == 0} for n in range(ROWS)]
    case("answers marked good or bad", rows, [(r["prompt"], r["completion"]) for r in rows if r["label"]], "open")


def containers() -> None:
    """Three kinds of rows in every file format."""
    kinds: dict[str, tuple[list[dict[str, Any]], str]] = {
        "questions": (
            [{"question": f"{text()}, {n}?", "answer": f"{text(9)}; \"{long()}\""} for n in range(ROWS)], "open"
        ),
        "labels": ([{"text": f"{text()}\n{n}", "label": label("a b", "c")} for n in range(ROWS)], "choice"),
        "instructions": (
            [{"instruction": f"{text()} {n}", "input": label("", text()), "output": long()} for n in range(ROWS)],
            "open",
        ),
    }  # fmt: skip
    for kind, (rows, metric) in kinds.items():
        names = list(rows[0])
        pairs = [(row[names[0]], row[names[-1]]) for row in rows]
        for file in ("a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl"):
            case(f"{kind} in {file}", rows, pairs, metric, file)
        whole = {
            "semicolons": as_csv(rows, ";"), "sep=;": "sep=;\n" + as_csv(rows, ";"), "pipes": as_csv(rows, "|"),
            "quoted": as_csv(rows, ",", csv.QUOTE_ALL), "BOM": "\ufeff" + as_csv(rows),
            "Excel": "\ufeff" + as_csv(rows, ";").replace("\n", "\r\n").replace("\r\r\n", "\r\n"),
        }  # fmt: skip
        for name, content in whole.items():
            kept = pairs if name != "Excel" else [(a.replace("\n", "\r\n"), b) for a, b in pairs]
            raw(f"{kind}, CSV with {name}", "a.csv", content.encode(), kept, metric)
        columns = {name: {str(n): row[name] for n, row in enumerate(rows)} for name in names}
        layouts: dict[str, Any] = {
            "split": {"columns": names, "index": list(range(ROWS)), "data": [list(row.values()) for row in rows]},
            "columns": columns, "index": {str(n): row for n, row in enumerate(rows)}, "lists": {
                name: [row[name] for row in rows] for name in names}, "data key": {"version": 1, "data": rows},
        }  # fmt: skip
        for name, value in layouts.items():
            raw(f"{kind}, pandas {name}", "a.json", json.dumps(value).encode(), pairs, metric)
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        raw(f"{kind}, gzip", "a.jsonl.gz", gzip.compress(lines), pairs, metric)
        raw(f"{kind}, lines in .json", "a.json", lines, pairs, metric)
        CASES.append(
            Case(f"{kind}, folder of splits", lambda folder, rows=rows: splits(folder, rows), pairs[:SHOWN], metric)
        )


def splits(folder: Path, rows: list[Any]) -> Path:
    written(folder / "train.jsonl", rows)
    written(folder / "test.jsonl", [{**row, next(iter(row)): f"t {n} {text()}"} for n, row in enumerate(rows[:20])])
    return folder


def raw(name: str, file: str, content: bytes, pairs: list[tuple[str, str]], metric: str = "", **more: Any) -> None:
    def write(folder: Path) -> Path:
        (folder / file).write_bytes(content)
        return folder / file

    CASES.append(Case(name, write, pairs[:SHOWN], metric, **more))


def renamed(suffix: str) -> Callable[[Path, UserError], Path]:
    return lambda path, error: path.rename(path.with_suffix(suffix)) if suffix in error.hint else path


def rewritten(content: str, says: str, suffix: str = ".csv") -> Callable[[Path, UserError], Path]:
    """What the advice asks for, in these words: the same rows, written by another program or downloaded again."""

    def follow(path: Path, error: UserError) -> Path:
        if says not in error.hint:
            return path
        path.unlink()
        path = path.with_suffix(suffix)
        path.write_text(content, "utf-8")
        return path

    return follow


def converted(path: Path, error: UserError) -> Path:
    """Run the command of the advice."""
    command = re.search(r"`([^`]+)`", error.hint)
    if not command:
        raise error
    subprocess.run(command[1], shell=True, check=True)
    return path


def files_of_other_kinds() -> None:
    rows = [{"question": f"{text()} {n}?", "answer": long()} for n in range(ROWS)]
    pairs = [(row["question"], row["answer"]) for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    german = [
        {"question": f"Où est-il né, l'été {n}?", "answer": f"À côté, {n} café très léger, déjà là."}
        for n in range(ROWS)
    ]
    words = [(row["question"], row["answer"]) for row in german]
    for encoding in ("latin-1", "cp1252"):
        raw(f"CSV in {encoding}", "a.csv", as_csv(german).encode(encoding), words, follow=converted)
    for encoding in ("utf-16", "utf-16-le"):
        raw(f"CSV in {encoding}", "a.csv", as_csv(german).encode(encoding), words, follow=converted)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
    raw("Git LFS pointer", "a.jsonl", pointer, pairs, follow=rewritten(lines, "git lfs pull", ".jsonl"))
    raw(
        "HTML page",
        "a.csv",
        b"<!DOCTYPE html><html><body>404</body></html>",
        pairs,
        follow=rewritten(as_csv(rows), "download the file"),
    )
    logs = "".join(f"081109 2036{n % 60:02} 148 INFO dfs.DataNode: {text()}, {n}\n" for n in range(ROWS))
    said = [("", line) for line in logs.splitlines()]
    for file in ("a.log", "a.csv", "a.json", "a.jsonl"):
        raw(f"log as {file}", file, logs.encode(), said, "loss", follow=renamed(".txt"))
    book = io.BytesIO()
    with zipfile.ZipFile(book, "w") as packed:
        packed.writestr("xl/workbook.xml", "<workbook/>")
    for file in ("a.xlsx", "a.csv"):
        raw(f"spreadsheet as {file}", file, book.getvalue(), pairs, follow=rewritten(as_csv(rows), "CSV UTF-8"))
    arrays = {
        f"{before}{split}": [[f"{split} {text()} {n}", label("travel", "banking")] for n in range(60)]
        for before in ("", "oos_") for split in ("train", "val", "test")
    }  # fmt: skip
    raw(
        "clinc (arrays of splits)",
        "a.json",
        json.dumps(arrays).encode(),
        [(a, b) for a, b in arrays["train"]],
        "choice",
    )
    CASES.append(Case("folders as labels", folders, [("", "")], "choice"))
    raw("paragraphs", "a.txt", "\n\n".join(long() for _ in range(ROWS)).encode(), [("", "")], "loss")
    raw("lines of text", "a.txt", "\n".join(long() for _ in range(ROWS)).encode(), [("", "")], "loss")
    case("texts", [{"text": long(), "url": f"http://x/{n}"} for n in range(ROWS)], [("", "")], "loss")
    case("wiki", [{"id": str(n), "title": text(2), "text": long()} for n in range(ROWS)], [("", "")], "loss")
    raw(
        "truncated JSON lines",
        "a.jsonl",
        (lines + '{"question": "is it').encode(),
        pairs,
        follow=rewritten(lines, "complete or delete", ".jsonl"),
    )
    raw(
        "two headers of one name",
        "a.csv",
        ("answer,answer\n" + "".join(f"{text()} {n}?,{long()}\n" for n in range(9))).encode(),
        [("", "")],
        follow=lambda path, error: rewritten(
            path.read_text().replace("answer,answer", "question,answer"), "rename one of them"
        )(path, error),
    )
    bfcl = [
        {"id": f"simple_{n}", "question": [[{"role": "user", "content": f"{text()} {n}"}]], "function": [{"name": "f"}]}
        for n in range(ROWS)
    ]
    case(
        "BFCL without its answers",
        bfcl,
        [("", "")],
        follow=lambda path, error: (
            written(path, [{"question": row["question"][0][0]["content"], "answer": long()} for row in bfcl])
            if "add a column of them" in error.hint
            else path
        ),
    )
    unclear = [{"Eins": text(), "Zwei": text(), "Drei": text()} for n in range(ROWS)]
    case("three columns that say nothing", unclear, [(row["Eins"], row["Zwei"]) for row in unclear])
    CASES[-1].settings = {"map": {"prompt": "Eins", "completion": "Zwei"}}


def folders(folder: Path) -> Path:
    for name in ("pos", "neg"):
        (folder / name).mkdir()
        for n in range(30):
            (folder / name / f"{n}.txt").write_text(f"{name} {n} {text()}")
    return folder


def settings_of(hint: str) -> dict[str, Any]:
    """The last group of `--set data.KEY=VALUE` options of an advice, which is its suggestion."""
    found: dict[str, Any] = {}
    guess = hint[max(hint.find("guess to confirm"), 0) :] if "guess to confirm" in hint else hint
    for option in re.findall(r"--set ('(?:[^']|'\\'')*'|\S+)", guess):
        key, _, value = shlex.split(option)[0].rstrip(");,").partition("=")
        try:
            read = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            read = value
        section: dict[str, Any] = found
        *parents, last = key.removeprefix("data.").split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = read
    return found


def outcome(one: Case, folder: Path) -> tuple[str, str]:
    """(read right, refused well, unhelpful or wrong; why)."""
    path = one.write(folder)
    try:
        return result(one, Data(id=str(path)))
    except UserError as error:
        try:
            if one.follow:
                data = Data(id=str(one.follow(path, error)))
            else:
                data = followed(path, error, one.settings.get("map"))
            right, why = result(one, data)
        except UserError as second:
            return "unhelpful", f"{error.line} => {second.line}"
        except Exception as failure:  # noqa: BLE001 - the table names it
            return "unhelpful", f"{error.line} => {failure!r}"
        return ("refused well", error.code) if right == "read right" else ("unhelpful", f"{error.line} => {why}")


def followed(path: Path, error: UserError, chosen: dict[str, str] | None) -> Data:
    """The settings of the advice; chosen: the columns that its user picks from those that it lists."""
    settings = settings_of(error.hint)
    if not settings:
        raise error
    if chosen and all(name in error.hint for name in chosen.values()):
        settings["map"] = chosen
    return msgspec.convert({"id": str(path), **settings}, Data)


def result(one: Case, data: Data) -> tuple[str, str]:
    model = Model(id="tiny", chat_template=one.settings.get("template"))
    tokenizer = load_tokenizer(model)
    done = prepare(data, 2048, tokenizer)
    rows: list[Row] = [row for split in done.rows.values() for row in split]
    found = {(tokenizer.decode(row.prompt), row.target) for row in rows}
    for asked, answer in one.pairs:
        lost = (asked, answer) != ("", "") and not any(
            " ".join(asked.split()) in " ".join(prompt.split())
            and (
                " ".join(target.split()) == " ".join(answer.split())
                or (one.metric == "tool_calls" and answer in target)
            )
            for prompt, target in found
        )
        if lost:
            return "wrong", f"{done.facts.why}: {asked[:40]!r} -> {answer[:40]!r} is missing"
    metric = AnswerProfile.of(done.train).choose().metric
    if one.metric and metric != one.metric:
        return "wrong", f"metric {metric}, not {one.metric}"
    return "read right", done.facts.format


def main(names: list[str]) -> int:
    for add in (
        pairs_of_names,
        classification,
        multiple_choice,
        answers_of_other_kinds,
        chats,
        containers,
        files_of_other_kinds,
    ):
        add()
    counts: Counter[str] = Counter()
    print("| file | outcome | |\n|---|---|---|")
    for one in CASES:
        if names and not any(name in one.name for name in names):
            continue
        with tempfile.TemporaryDirectory() as folder:
            what, why = outcome(one, Path(folder))
        counts[what] += 1
        print(f"| {one.name} | {what} | {' '.join(why.replace('|', '/').split())} |", flush=True)
    total = counts.total()
    print(
        f"\n{total} files: "
        + ", ".join(f"{what} {count} ({count / total:.1%})" for what, count in counts.most_common())
    )
    return int(counts["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
