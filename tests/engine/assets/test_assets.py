"""Properties of the embedded model and dataset that runs without a network rely on."""

from __future__ import annotations

import json
import re
import struct
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from authoring import ticket_phrases as bank
from authoring.copying import copy_accuracy
from authoring.corpus import CODES_LAST, COPYING_FIRST, KEYS_LAST, KINDS, SUPPORT_LAST, documents
from authoring.make_tickets import FIELDS, SIZES, normal_form, write_tickets
from engine.assets import tickets_folder, tiny_folder
from engine.extensions.gguf.gguf_tools import declared

CHOICES = {
    "category": set(bank.CATEGORIES),
    "product": {*bank.PRODUCTS, None},
    "mood": {*bank.MOOD, "neutral"},
    "urgency": {*bank.URGENCY, "normal"},
    "wants": {*bank.WANTS, None},
}


@cache
def rows(split: str) -> list[list[dict[str, str]]]:
    lines = (tickets_folder() / f"{split}.jsonl").read_text().splitlines()
    return [json.loads(line)["messages"] for line in lines]


def stem_of(phrase: str) -> str:
    """The longest part of a phrase without placeholders."""
    return max(re.split(r"\{.\}", phrase), key=len).strip(" ,")


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder())


def weight_shapes() -> dict[str, list[int]]:
    """Read only the header, so that the check needs no torch."""
    raw = (tiny_folder() / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


@pytest.mark.parametrize("split", SIZES)
def test_split_has_its_size_and_valid_answers(split: str) -> None:
    assert len(rows(split)) == SIZES[split]
    for user, assistant in rows(split):
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        answer = json.loads(assistant["content"])
        assert tuple(answer) == FIELDS
        assert all(answer[key] in allowed for key, allowed in CHOICES.items())


@pytest.mark.parametrize("split", SIZES)
def test_every_order_number_is_in_its_message(split: str) -> None:
    for user, assistant in rows(split):
        order = json.loads(assistant["content"])["order"]
        assert order is None or order in user["content"].upper().replace("-", "")


def test_no_message_occurs_twice_in_or_across_splits() -> None:
    forms = [normal_form(user["content"]) for split in SIZES for user, _ in rows(split)]
    assert len(forms) == len(set(forms)) == sum(SIZES.values())


def test_categories_are_skewed_and_fields_go_missing() -> None:
    answers = [json.loads(assistant["content"]) for _, assistant in rows("train")]
    share = {name: sum(a["category"] == name for a in answers) / len(answers) for name in bank.CATEGORIES}
    assert share["delivery"] > 5 * share["praise"] > 0
    for key in ("product", "order", "wants"):
        assert 0.1 < sum(a[key] is None for a in answers) / len(answers) < 0.6


def test_make_tickets_reproduces_the_files(tmp_path: Path) -> None:
    write_tickets(tmp_path)
    for name in (f"{split}.jsonl" for split in SIZES):
        assert (tmp_path / name).read_bytes() == (tickets_folder() / name).read_bytes()


def test_train_never_has_the_phrases_reserved_for_test() -> None:
    kept = [p for phrases in bank.PROBLEMS.values() for p in phrases[3::4]]
    stems = [stem_of(p) for p in kept]
    shown = "\n".join(user["content"].lower() for user, _ in rows("train"))
    asked = "\n".join(user["content"].lower() for user, _ in rows("test"))
    assert not [stem for stem in stems if stem in shown]
    assert sum(stem in asked for stem in stems) > len(stems) / 2


@pytest.mark.parametrize("mix", [KINDS, COPYING_FIRST, SUPPORT_LAST, KEYS_LAST, CODES_LAST])
def test_pretraining_has_no_tickets(mix: dict[str, int]) -> None:
    groups = [*bank.PROBLEMS.values(), *bank.WANTS.values(), *bank.URGENCY.values(), *bank.MOOD.values()]
    groups += [bank.NUMBERS, bank.OTHERS, bank.CHATTER]
    # Two words such as "we love" are common English; the phrases reserved for test must not occur at all.
    forbidden = [stem for phrases in groups for stem in map(stem_of, phrases) if stem.count(" ") > 1]
    forbidden += [stem_of(phrase) for phrases in [*groups, bank.ORDERS] for phrase in phrases[3::4]]
    pattern = re.compile("|".join(rf"\b{re.escape(stem)}\b" for stem in forbidden))
    for document in documents(3000, 8, mix):
        texts = [document] if isinstance(document, str) else [turn["content"] for turn in document]
        assert not any(all(f'"{key}"' in text for key in FIELDS) for text in texts)
        assert not pattern.search("\n".join(texts).lower())


def test_model_folder_is_small_and_has_safetensors_only() -> None:
    files = {path.name: path.stat().st_size for path in tiny_folder().iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    assert {Path(name).suffix for name in files} == {".json", ".safetensors"}
    assert sum(files.values()) < 12_000_000


def test_every_linear_layer_can_be_quantized_to_4_bits() -> None:
    linear = {n: s for n, s in weight_shapes().items() if n.endswith("_proj.weight")}
    assert len(linear) == 7 * json.loads((tiny_folder() / "config.json").read_text())["num_hidden_layers"]
    assert all(out % 32 == 0 and into % 64 == 0 for out, into in linear.values())


def test_turns_end_with_the_end_token_that_stops_generation() -> None:
    tok = tokenizer()
    settings = json.loads((tiny_folder() / "generation_config.json").read_text())
    assert settings["eos_token_id"] == tok.eos_token_id != tok.pad_token_id == settings["pad_token_id"]
    text = tok.apply_chat_template(rows("test")[0], tokenize=False)
    assert text.endswith("<|im_end|>\n") and tok.eos_token == "<|im_end|>"


def test_mask_covers_the_answer_and_its_end_token_only() -> None:
    tok = tokenizer()
    for messages in rows("test")[:20]:
        made = tok.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        answer = [t for t, m in zip(made["input_ids"], made["assistant_masks"], strict=True) if m]
        assert tok.decode(answer) == messages[1]["content"] + "<|im_end|>"


def test_prompt_is_a_prefix_of_the_whole_and_decodes_back() -> None:
    tok = tokenizer()
    for messages in rows("test")[:20]:
        whole = tok.apply_chat_template(messages, return_dict=True)["input_ids"]
        asked = tok.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)
        assert whole[: len(asked["input_ids"])] == asked["input_ids"]
        assert tok.decode(whole) == tok.apply_chat_template(messages, tokenize=False)


def test_template_renders_system_tools_calls_and_results() -> None:
    call = {"type": "function", "function": {"name": "track", "arguments": {"order": "AB12345"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "where is it"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "on its way"},
    ]
    tool = {"type": "function", "function": {"name": "track", "description": "d", "parameters": {}}}
    text = tokenizer().apply_chat_template(messages, tools=[tool], tokenize=False, add_generation_prompt=True)
    assert text.count("<|im_start|>system\n") == 1 and '"description": "d"' in text
    assert '{"name": "track", "arguments": {"order": "AB12345"}}<|im_end|>\n' in text
    assert text.endswith("<|im_start|>tool\non its way<|im_end|>\n<|im_start|>assistant\n")


def test_a_code_has_the_same_tokens_wherever_it_stands() -> None:
    tok = tokenizer()
    for text in ("order AB12345 is late", "Order #AB12345", '{"order":"AB12345"}', "AB12345", "see\nAB12345."):
        assert re.search("A B 12 3 45", " ".join(tok.tokenize(text)))
    assert tok.tokenize("zb-12345") == ["z", "b", "-", "12", "3", "45"]


def test_order_numbers_have_the_same_tokens_in_message_and_answer() -> None:
    """Apart from case; words of two letters, such as `me`, are one token."""
    tok, equal = tokenizer(), []
    for user, assistant in rows("train"):
        order = json.loads(assistant["content"])["order"]
        if order is not None:
            told = " ".join(token.upper() for token in tok.tokenize(user["content"]) if token != "-")
            equal.append(f" {' '.join(tok.tokenize(order))} " in f" {told} ")
    assert sum(equal) > 0.98 * len(equal)


def test_llama_cpp_has_the_splitting_of_the_tokenizer() -> None:
    assert declared(tiny_folder()) == "llama-bpe"


def test_the_model_copies_codes_from_messages_it_has_not_seen() -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder())
    assert copy_accuracy(model, tokenizer(), seed=11) >= 0.9
