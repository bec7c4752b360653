"""Rows whose loss masks are compared: one `Shape` for each form of training data.

Rows are as a user would pass them to ftbench; `with_*.py` convert them for each peer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

Json = dict[str, Any]

CARD = "Where is my card?"
ARRIVES = "It arrives on Monday, naïvely counted: 3–5 days."
SYSTEM = "Answer in one sentence."


@dataclass(frozen=True)
class Shape:
    """Rows of one form, with chat template and maximum length."""

    name: str
    rows: list[Json]
    form: str
    """Form of the rows, for the peers' settings: messages, sharegpt, alpaca, pair or text."""
    template: str = "own"
    """own: the tokenizer's; qwen2.5, qwen3: that family's, as shipped with trl."""
    max_length: int = 640
    tools: bool = False
    last_only: bool = False
    """Whether flags in the rows leave only the last answer in the loss."""
    options: Json = field(default_factory=dict)
    """ftbench's `data` settings, if detection is not enough."""

    def as_json(self) -> Json:
        return asdict(self)


def user(content: str) -> Json:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> Json:
    return {"role": "assistant", "content": content, **more}


def system(content: str = SYSTEM) -> Json:
    return {"role": "system", "content": content}


def chat(*turns: Json, **more: Any) -> Json:
    return {"messages": list(turns), **more}


def call(name: str, **arguments: Any) -> Json:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, description: str, **properties: str) -> Json:
    typed = {key: {"type": kind} for key, kind in properties.items()}
    parameters = {"type": "object", "properties": typed, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TRACK = tool("track", "Where a parcel is.", parcel="string")
THREE = [user(CARD), assistant(ARRIVES), user("And the PIN?"), assistant("In a letter of its own."), user("Thanks 😀")]
FIRST_THOUGHT = "<think>\nA card was ordered.\n</think>\n\nIt arrives on Monday."
LAST_THOUGHT = "<think>\nThe PIN follows the card.\n</think>\n\nOn Tuesday."

SHAPES = [
    Shape("single turn", [chat(user(CARD), assistant(ARRIVES)), chat(user("2 + 2?"), assistant("4"))], "messages"),
    Shape("system message", [chat(system(), user(CARD), assistant(ARRIVES))], "messages"),
    Shape(
        "multi-turn", [chat(*THREE, assistant("Welcome!")), chat(system(), *THREE, assistant("¡De nada!"))], "messages"
    ),
    Shape("prompt and completion", [{"prompt": CARD, "completion": ARRIVES}], "pair"),
    Shape(
        "alpaca with input",
        [
            {"instruction": "Translate to German.", "input": "a card", "output": "eine Karte"},
            {"instruction": "Name a color.", "input": "", "output": "blue"},
        ],
        "alpaca",
    ),
    Shape(
        "alpaca with history",
        [{"instruction": "And red?", "input": "", "output": "rot", "history": [["Say blue in German.", "blau"]]}],
        "alpaca",
    ),
    Shape(
        "sharegpt",
        [
            {
                "conversations": [
                    {"from": "system", "value": SYSTEM},
                    {"from": "human", "value": CARD},
                    {"from": "gpt", "value": ARRIVES},
                    {"from": "human", "value": "Sure?"},
                    {"from": "gpt", "value": "Yes."},
                ]
            }
        ],
        "sharegpt",
    ),
    Shape(
        "tool calls",
        [
            chat(
                user("Where is parcel A7?"),
                assistant("", tool_calls=[call("track", parcel="A7")]),
                {"role": "tool", "content": '{"place": "Oslo"}'},
                assistant("It is in Oslo."),
                tools=[TRACK],
            ),
            chat(user("Track B8."), assistant("", tool_calls=[call("track", parcel="B8")]), tools=[TRACK]),
        ],
        "messages",
        template="qwen2.5",
        tools=True,
    ),
    Shape(
        "parallel tool calls",
        [
            chat(
                user("Where are A7 and B8?"),
                assistant("I look.", tool_calls=[call("track", parcel="A7"), call("track", parcel="B8")]),
                {"role": "tool", "content": "Oslo"},
                {"role": "tool", "content": "Rome"},
                assistant("In Oslo and Rome."),
                tools=[TRACK],
            )
        ],
        "messages",
        template="qwen2.5",
        tools=True,
    ),
    Shape(
        "last answer only",
        [
            chat(
                user(CARD),
                assistant("Which card?", weight=0),
                user("The blue one."),
                assistant(ARRIVES, weight=1),
            )
        ],
        "messages",
        last_only=True,
    ),
    Shape("plain text", [{"text": "The card arrives on Monday.\nThe PIN follows."}], "text"),
    Shape(
        "answer cut at max_length",
        [chat(user("Count."), assistant(" ".join(str(n) for n in range(100, 160))))],
        "messages",
        max_length=64,
    ),
    Shape(
        "prompt longer than max_length",
        [chat(user(" ".join(str(n) for n in range(100, 160))), assistant("Counted."))],
        "messages",
        max_length=64,
    ),
    Shape(
        "second turn cut at max_length",
        [chat(user("Count."), assistant("1 2 3"), user("Go on."), assistant(" ".join(map(str, range(100, 160)))))],
        "messages",
        max_length=64,
    ),
    Shape("reasoning", [chat(user("And the PIN?"), assistant(LAST_THOUGHT))], "messages", template="qwen3"),
    Shape(
        "reasoning in earlier turns",
        [chat(user(CARD), assistant(FIRST_THOUGHT), user("And the PIN?"), assistant(LAST_THOUGHT))],
        "messages",
        template="qwen3",
    ),
    Shape("answer without reasoning", [chat(user(CARD), assistant(ARRIVES))], "messages", template="qwen3"),
    Shape("opens with an answer", [chat(assistant("Hello!"), user(CARD), assistant(ARRIVES))], "messages"),
    Shape("ends with a question", [chat(user(CARD), assistant(ARRIVES), user("Thanks."))], "messages"),
    Shape(
        "empty answer in the middle", [chat(user(CARD), assistant(""), user("Well?"), assistant(ARRIVES))], "messages"
    ),
    Shape(
        "end token typed into the answer",
        [chat(user("How do turns end?"), assistant("With <|im_end|> in ChatML."))],
        "messages",
    ),
]
