"""Messages between a chat session (`engine.worker.chat_server`) and its client: one JSON object per line, both ways."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

from engine.config.errors import Notice

NOT_FINISHED = "chat.not_finished"
"""Code of the error for a run that is not finished."""
Ending = Literal["end token", "length", "stopped"]
"""How an answer ended: by an end token, after `max_new_tokens` or at the model's last position, or by a Stop."""
ItemKind = Literal["disagree", "failure", "other"]
"""The recorded answers to a test item: different between runs and not all right; all the same and wrong; all right."""


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is selected."""

    temperature: float = 0.0
    """0: greedy, the most likely token, as in evaluation."""
    top_p: float = 1.0
    """Sample from the most likely tokens whose probabilities add up to this."""
    seed: int = 0
    max_new_tokens: int = 128


class Conversation(Struct, frozen=True, kw_only=True):
    """What is answered: messages, or plain text for models without a chat template."""

    messages: list[dict[str, Any]]
    """OpenAI's schema; the last message is the user's."""
    tools: list[Any] | None = None
    prompt: str | None = None
    """The prompt as plain text, for tokenizers without a chat template."""


class OpenSession(Struct, frozen=True, kw_only=True, tag=True):
    """Load the models of finished runs. The first request."""

    runs: list[str]
    """Run directories."""
    base: bool = True
    """Whether the base model answers too."""
    wait: bool = True
    """Whether to wait in the device queue."""
    device: int | str = "auto"
    """As `hardware.device`."""


class AnswerRequest(Struct, frozen=True, kw_only=True, tag=True):
    """Answer one conversation with each of these columns, one after the other."""

    number: int
    """Repeated in the messages about this request."""
    conversations: dict[str, Conversation]
    """Column -> its conversation: earlier answers differ between columns."""
    sampling: Sampling = Sampling()


class Stop(Struct, frozen=True, tag=True):
    """Stop generating; the remaining columns of the request are not answered."""


class ListItems(Struct, frozen=True, kw_only=True, tag=True):
    """List the test items in replay order."""

    limit: int


Request: TypeAlias = OpenSession | AnswerRequest | Stop | ListItems


class QueueWait(Struct, frozen=True, tag=True):
    """Waiting in the device queue."""

    note: str
    """Place and holder: `next on GPU 0; in use by 2026…-3f2a (process 17)`."""
    device: str
    """`GPU 0` or `the CPU`."""


class LoadingProgress(Struct, frozen=True, tag=True):
    """Loading libraries, data or weights."""

    text: str


class ChatColumn(Struct, frozen=True, kw_only=True):
    """A model that answers."""

    key: str
    title: str
    """`base`, `QLoRA`, `LoRA 3f2a`."""
    model: str
    """The base model's id."""
    run: str = ""
    """Name of the run; '' for a base model."""
    chat: bool = True
    """Whether the model has a chat template; without one it answers single prompts."""
    system: str = ""
    """The system prompt of the training rows; '' if they have none or several."""
    max_new_tokens: int = 128
    """`evaluation.max_new_tokens` of the run."""


class WeightsMemory(Struct, frozen=True, kw_only=True):
    """Memory of one copy of weights: a base shared by its adapters, or a model of a full fine-tuning."""

    name: str
    """`base`, `4-bit base`, or the title of a full model."""
    bytes: int
    adapters: int = 0
    """Number of adapters on this base."""
    adapter_bytes: int = 0


class MemoryUse(Struct, frozen=True, kw_only=True):
    """Memory of the session."""

    parts: list[WeightsMemory]
    process: int
    """Resident set of the process in bytes."""
    gpu: int | None = None
    """Reserved on the GPU by torch's caching allocator; None on the CPU."""


class Ready(Struct, frozen=True, kw_only=True, tag=True):
    """The models are loaded and verified."""

    columns: list[ChatColumn]
    memory: MemoryUse
    device: str
    notices: list[Notice] = field(default_factory=list)
    """Failed verification and other warnings."""


class AnswerStarted(Struct, frozen=True, kw_only=True, tag=True):
    """A column starts to answer."""

    number: int
    column: str
    prompt_tokens: int
    cached_tokens: int
    """Tokens of the prompt whose keys and values are kept from the conversation's last turn."""


class AnswerText(Struct, frozen=True, kw_only=True, tag=True):
    """The next characters of an answer."""

    number: int
    column: str
    text: str


class AnswerFinished(Struct, frozen=True, kw_only=True, tag=True):
    """A complete answer."""

    number: int
    column: str
    text: str
    tokens: int
    """Generated tokens, without the end token."""
    ended: Ending
    first_token: float
    """Seconds from the start of this column to its first token."""
    seconds: float
    """From the first token to the last."""

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first one, per second; None for shorter answers."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds > 0 else None


class RequestFinished(Struct, frozen=True, kw_only=True, tag=True):
    """All columns of a request have answered, or it was stopped."""

    number: int
    memory: MemoryUse


class RecordedAnswer(Struct, frozen=True, kw_only=True):
    """What a run's evaluation recorded."""

    text: str
    right: bool | None
    """Whether it has the best possible score; None if the run's metric needs no answers."""


class ReplayItem(Struct, frozen=True, kw_only=True):
    """A test item with the prompt of training."""

    where: str
    kind: ItemKind
    conversation: Conversation
    target: str
    recorded: dict[str, RecordedAnswer] = field(default_factory=dict)
    """Column -> its recorded answer."""


class ReplayItems(Struct, frozen=True, kw_only=True, tag=True):
    """The first test items in replay order."""

    items: list[ReplayItem]
    total: int
    disagree: int
    """Items to which the runs recorded different answers, not all right."""
    failures: int
    """Items to which all runs recorded the same wrong answer."""


class RequestRefused(Struct, frozen=True, kw_only=True, tag=True):
    """A UserError. The session continues unless it was refused while opening."""

    what: str
    where: str = ""
    do: str = ""
    code: str = ""
    number: int | None = None


class SessionFailed(Struct, frozen=True, kw_only=True, tag=True):
    """A failure that is not the user's, such as insufficient memory; the session ends."""

    reason: str
    code: str = "engine.failed"


Message: TypeAlias = (
    QueueWait
    | LoadingProgress
    | Ready
    | AnswerStarted
    | AnswerText
    | AnswerFinished
    | RequestFinished
    | ReplayItems
    | RequestRefused
    | SessionFailed
)
