"""Conversations as training encodes them, answers as evaluation gives them, and test items in replay order."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from made_models import conversation_of, made_model, record_answers

from engine.config.errors import UserError
from engine.config.schema import Data, Model
from engine.data.detection import examples_of, system_prompt, training_examples
from engine.data.prepare import prepare
from engine.data.prompts import PromptEncoder
from engine.evaluation.generate import Generator, end_tokens
from engine.extensions.chat.chat_client import (
    AnswerFinished,
    AnswerRequest,
    AnswerText,
    Conversation,
    Message,
    RequestFinished,
    Sampling,
)
from engine.extensions.chat.models import BASE, prompt_of, tried_run
from engine.extensions.chat.session import ChatSession
from engine.methods.adapters import unwrap_peft
from engine.methods.model_source import load_tokenizer
from engine.runs.run.folder import short_name
from engine.runs.run.run_dir import RunDir

RIGHT = [("a", True), ("b", False), ("c", False), ("d", True), ("e", False)]
OTHER = [("a", True), ("b", False), ("other", True), ("d", True), ("x", False)]
"""Recorded answers of two runs: they disagree on items 2 (one is right) and 4, and both failed on item 1."""
CHATS = [
    [("system", "Be brief."), ("user", "Where?"), ("assistant", "Here."), ("user", "When?"), ("assistant", "Now.")],
    [("system", "Be brief."), ("user", "Who?"), ("assistant", "Me.")],
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunDir]]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTBENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
        made = {name: made_model(folder, name, seed) for seed, name in enumerate(("lora", "full"))}
        record_answers(made["lora"], RIGHT)
        record_answers(made["full"], OTHER)
        yield made


@pytest.fixture(scope="module")
def session(made: dict[str, RunDir]) -> ChatSession:
    return ChatSession([run.path for run in made.values()], True, lambda text: None)


def told(session: ChatSession, ask: AnswerRequest, stop_after: int = 10**9) -> list[Message]:
    """The messages of a request that is stopped after some pieces."""
    messages: list[Message] = []
    session.answer(
        ask, messages.append, lambda: sum(isinstance(message, AnswerText) for message in messages) >= stop_after
    )
    return messages


def ask_all(session: ChatSession, conversation: Conversation, number: int = 1, **sampling: float) -> AnswerRequest:
    columns = dict.fromkeys(session.models.responders, conversation)
    return AnswerRequest(number=number, conversations=columns, sampling=Sampling(**{"max_new_tokens": 24} | sampling))


def test_prompts_and_end_tokens_are_those_of_training(session: ChatSession) -> None:
    responder = session.models.responders[BASE]
    tokenizer = load_tokenizer(Model())
    prepared = prepare(Data(), 512, tokenizer)
    by_place = {item.row.where: item.row.prompt for item in prepared.test_items}
    examples = [example for example in examples_of(Data(), ("test",)) if example.where in by_place]
    assert len(examples) >= 10
    for example in examples[:10]:
        assert responder.encoder.ids(prompt_of(example)) == by_place[example.where]
    assert responder.ends == end_tokens(tokenizer, session.models.copies[0].network, prepared.train)


def test_the_system_prompt_of_the_training_rows_and_earlier_turns_are_encoded_as_in_training(tmp_path: Path) -> None:
    file = tmp_path / "chats.jsonl"
    rows = [{"messages": [{"role": role, "content": text} for role, text in chat]} for chat in CHATS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    examples = training_examples(Data(id=str(file)))
    assert system_prompt(examples) == "Be brief." and system_prompt([]) == ""
    encoder = PromptEncoder(load_tokenizer(Model()))
    for example, chat in zip(examples, rows, strict=True):
        (row,) = encoder.rows([example])
        assert encoder.ids(Conversation(messages=chat["messages"][:-1])) == row.prompt


def test_without_a_chat_template_the_prompt_is_plain_text() -> None:
    tokenizer = load_tokenizer(Model())
    tokenizer.chat_template = None
    encoder = PromptEncoder(tokenizer)
    messages = [{"role": "user", "content": "Hello there"}]
    assert not encoder.chat
    assert encoder.ids(Conversation(messages=messages, prompt="Hello there")) == tokenizer("Hello there")["input_ids"]
    for empty in (Conversation(messages=messages, prompt=""), Conversation(messages=messages)):
        with pytest.raises(UserError):
            encoder.ids(empty)


def evaluation_answers(session: ChatSession, conversation: Conversation) -> dict[str, str]:
    """Each model's answer to a conversation as the evaluation generates it, of at most 24 tokens."""
    answers = {}
    for name, responder in session.models.responders.items():
        generator = Generator(responder.tokenizer, 24, 4, "cpu", responder.ends, lambda code, text: None)
        network = responder.copy.activate(responder.adapter)
        (answers[name],) = generator.answers(network, [responder.encoder.row(conversation)])
    return answers


def test_greedy_answers_are_those_of_evaluation(session: ChatSession, made: dict[str, RunDir]) -> None:
    conversations = (conversation_of(made["lora"], number) for number in range(20))
    known = ((candidate, evaluation_answers(session, candidate)) for candidate in conversations)
    conversation, expected = next(
        (candidate, texts) for candidate, texts in known if len(set(texts.values())) == len(texts)
    )
    messages = told(session, ask_all(session, conversation))
    answers = {message.column: message for message in messages if isinstance(message, AnswerFinished)}
    assert list(answers) == list(session.models.responders)
    for name, answer in answers.items():
        assert answer.text == expected[name] and answer.tokens <= 24
        assert answer.ended == ("length" if answer.tokens == 24 else "end token")
        assert answer.text.startswith(
            "".join(message.text for message in messages if isinstance(message, AnswerText) and message.column == name)
        )
        assert answer.first_token > 0 and answer.seconds >= 0
    assert isinstance(messages[-1], RequestFinished) and messages[-1].memory.process > 0


@contextmanager
def prompt_tokens_read(networks: Iterable[torch.nn.Module]) -> Iterator[list[int]]:
    """The number of tokens of each forward pass over more than one token, in order."""
    read: list[int] = []

    def note(network: torch.nn.Module, given: object, named: dict[str, Any]) -> None:
        if (count := named["input_ids"].shape[1]) > 1:
            read.append(count)

    hooks = [network.register_forward_pre_hook(note, with_kwargs=True) for network in set(networks)]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()


def test_the_next_turn_reuses_the_conversation(session: ChatSession, made: dict[str, RunDir]) -> None:
    conversation = conversation_of(made["lora"], 1)
    first = {
        message.column: message
        for message in told(session, ask_all(session, conversation))
        if isinstance(message, AnswerFinished)
    }
    longer = {
        name: Conversation(
            messages=[
                *conversation.messages,
                {"role": "assistant", "content": answer.text},
                {"role": "user", "content": "And the order?"},
            ]
        )
        for name, answer in first.items()
    }
    ask = AnswerRequest(number=2, conversations=longer, sampling=Sampling(max_new_tokens=8))
    responders = session.models.responders
    with prompt_tokens_read(unwrap_peft(responder.copy.network) for responder in responders.values()) as read:
        continued = told(session, ask)
        for responder in responders.values():
            responder.kept.cache = None
        again = told(session, ask)
    prompt = len(responders[BASE].encoder.ids(conversation))
    assert len(read) == 6 and all(short <= whole - prompt for short, whole in zip(read[:3], read[3:], strict=True))
    texts = [
        [message.text for message in messages if isinstance(message, AnswerFinished)] for messages in (continued, again)
    ]
    assert len(texts[0]) == 3 and texts[0] == texts[1]


def test_a_stop_keeps_the_answer_so_far_and_skips_the_other_columns(
    session: ChatSession, made: dict[str, RunDir]
) -> None:
    messages = told(session, ask_all(session, conversation_of(made["lora"], 1)), stop_after=1)
    (answer,) = [message for message in messages if isinstance(message, AnswerFinished)]
    assert (answer.column, answer.ended) == (BASE, "stopped") and answer.tokens >= 1
    assert isinstance(messages[-1], RequestFinished)


def test_unusable_conversations_are_refused(session: ChatSession) -> None:
    hello = Conversation(messages=[{"role": "user", "content": "Hello"}])
    long = Conversation(messages=[{"role": "user", "content": "word " * 5000}])
    for columns, code in (({"none": hello}, "chat.unknown_column"), ({BASE: long}, "chat.too_long")):
        with pytest.raises(UserError) as refused:
            session.answer(AnswerRequest(number=1, conversations=columns), lambda message: None, lambda: False)
        assert refused.value.code == code


def test_items_with_different_answers_come_first_then_failures(session: ChatSession, made: dict[str, RunDir]) -> None:
    items = session.items(4)
    assert [item.kind for item in items.items] == ["disagree", "disagree", "failure", "other"]
    assert [item.where for item in items.items] == [f"test.jsonl line {n}" for n in (3, 5, 2, 1)]
    assert (items.total, items.disagree, items.failures) == (5, 2, 1)
    first = items.items[0]
    names = {name: short_name(run.name) for name, run in made.items()}
    assert first.recorded[names["full"]].right and not first.recorded[names["lora"]].right
    assert first.recorded[BASE].text == "no" and first.conversation == conversation_of(made["lora"], 2)
    assert first.target in first.target and first.conversation.messages[-1]["role"] == "user"


def test_items_of_changed_data_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for split in ("train", "test"):
        lines = [{"prompt": f"{split} question {n}", "completion": f"answer {n}"} for n in range(8)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = made_model(tmp_path / "runs", "lora", **{"data.id": str(data)})
    record_answers(run, RIGHT[:2])
    session = ChatSession([run.path], False, lambda text: None)
    assert [item.where for item in session.items(9).items] == ["test.jsonl line 2", "test.jsonl line 1"]
    (data / "test.jsonl").write_text((data / "test.jsonl").read_text().replace("question", "query"))
    with pytest.raises(UserError) as refused:
        session.items(9)
    assert refused.value.code == "chat.items_changed"
    run.predictions_file.unlink()
    with pytest.raises(UserError) as refused:
        session.items(9)
    assert refused.value.code == "chat.no_items"
    assert tried_run(run.path).weights
