"""Compare ids and labels with those that trl's SFTTrainer prepares from the same rows and tokenizer.

They may differ in one thing: trl also learns what a template writes behind an end token (ChatML's line feed),
because it takes everything behind the prompt, or all of a template's generation block. We stop at the end token.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from data_fixtures import tokenize_all, tokenizer

from engine.assets import tiny_folder
from engine.config.schema import Data
from engine.data.conversation import to_example
from engine.data.detection import detect
from engine.data.rows import RawRow

trl = pytest.importorskip("trl")

PAIRS = [{"prompt": f"What is {n} + {n}?", "completion": f"It is {2 * n}, naïvely\n counted."} for n in range(8)]
TURN_PAIRS = [
    {
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": pair["prompt"]}],
        "completion": [{"role": "assistant", "content": pair["completion"]}],
    }
    for pair in PAIRS
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"Where is card {n}?"},
            {"role": "assistant", "content": "On its way."},
            {"role": "user", "content": "Since when?"},
            {"role": "assistant", "content": f"Since day {n}."},
        ]
    }
    for n in range(8)
]


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=4096, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


@pytest.fixture(params=["made here", "embedded"])
def tok(request: Any) -> Any:
    if request.param == "made here":
        return tokenizer()
    if not (tiny_folder() / "tokenizer.json").exists():
        pytest.skip("the embedded model is not there yet")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder())


def theirs(rows: Any, tok: Any, model: Any, folder: Any, **options: Any) -> Any:
    """(input_ids, labels) of each row, by trl."""
    from datasets import Dataset

    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    config = trl.SFTConfig(output_dir=str(folder), report_to="none", use_cpu=True, max_length=512, **options)
    trainer = trl.SFTTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tok)
    return [(list(row["input_ids"]), list(row["labels"])) for row in trainer.train_dataset]


def ours(rows: Any, tok: Any) -> Any:
    raws = [RawRow(dict(row), f"line {number}") for number, row in enumerate(rows, 1)]
    detected = detect(raws, Data(id="rows"))
    return [(row.input_ids, row.labels) for row in tokenize_all([to_example(raw, detected) for raw in raws], tok, 8192)]


def without_tail(ids: Any, labels: Any, tok: Any) -> Any:
    """trl's labels without those between an end token and the next turn."""
    kept, open_answer = [], True
    for id_, label in zip(ids, labels, strict=True):
        if label == -100:
            open_answer = True
        kept.append(label if open_answer else -100)
        if id_ == tok.eos_token_id:
            open_answer = False
    return ids, kept


def test_prompt_completion_turns_agree(tok: Any, model: Any, tmp_path: Path) -> None:
    expected = [
        without_tail(ids, labels, tok)
        for ids, labels in theirs(TURN_PAIRS, tok, model, tmp_path, completion_only_loss=True)
    ]
    assert ours(TURN_PAIRS, tok) == expected
    assert [label[0] for label in ours(PAIRS, tok)] == [
        label[0] for label in ours([{"messages": pair["prompt"][1:] + pair["completion"]} for pair in TURN_PAIRS], tok)
    ], "strings are the conversation of one question and one answer"


def test_messages_agree_with_assistant_only_loss(tok: Any, model: Any, tmp_path: Path) -> None:
    expected = theirs(CHATS, tok, model, tmp_path, assistant_only_loss=True)
    assert ours(CHATS, tok) == [without_tail(ids, labels, tok) for ids, labels in expected]


@pytest.mark.parametrize(
    ("family", "eos"),
    [
        ("cohere2", "<|END_OF_TURN_TOKEN|>"),
        ("gemma3", "<end_of_turn>"),
        ("lfm2", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("phi3", "<|end|>"),
        ("qwen3_instruct_2507", "<|im_end|>"),
    ],
)
def test_masks_found_by_rendering_are_those_of_trls_marked_templates(family: Any, eos: Any) -> None:
    """We locate answers in a model's template; trl has a copy of each template with the answers marked."""
    folder = Path(trl.__file__).parent / "chat_templates"
    own, marked = folder / f"{family}.jinja", folder / f"{family}_training.jinja"
    if not own.exists() or not marked.exists():
        pytest.skip("this trl has no such template")
    text = marked.read_text()
    specials = tuple(sorted(set(re.findall(r"<\|[A-Za-z_]+\|>|<(?:start|end)_of_turn>", text))))
    tok = tokenizer(own.read_text(), specials, bos="<s>", eos=eos)
    chat = CHATS[0]["messages"]
    expected = tok.apply_chat_template(
        chat, chat_template=text, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    labels = [
        id_ if mask else -100 for id_, mask in zip(expected["input_ids"], expected["assistant_masks"], strict=True)
    ]
    assert ours(CHATS[:1], tok) == [without_tail(expected["input_ids"], labels, tok)]


def test_plain_prompt_completion_agrees_to_the_token(model: Any, tmp_path: Path) -> None:
    tok = tokenizer(None)
    rows = [{"prompt": f"What is {n} + {n}?\nA:", "completion": f" It is {2 * n}."} for n in range(8)]
    assert ours(rows, tok) == theirs(rows, tok, model, tmp_path, completion_only_loss=True)
