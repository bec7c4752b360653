"""Judge's worker: `python -m engine.worker.judge_server PID` answers a judge's prompts with a model on this machine.

Requests and messages are JSON lines (`engine.judge.judges`). The process is in the device queue while it waits and
as long as it runs; it ends with the judge's process.
"""

from __future__ import annotations

import queue
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.config.errors import RunFailed
from engine.config.redaction import redact_output
from engine.config.schema import Model
from engine.data.rows import Problem, Row
from engine.hardware.devices import select_devices
from engine.judge.judges import JudgeAnswer, JudgeMessage, JudgeNote, JudgePrompt, JudgeReady, JudgeRequest, OpenJudge
from engine.methods.library_imports import import_libraries
from engine.runs.chat_client import Conversation, RequestRefused, SessionFailed
from engine.runs.endpoint import ChatAnswer
from engine.runs.queue.device_queue import wait_for_device
from engine.worker.rpc_server import Channel, tell_outcome

if TYPE_CHECKING:
    from engine.chat.models import PromptEncoder
    from engine.evaluation.generate import Generator

GATHER_SECONDS = 0.02
"""Time for prompts to arrive that are answered together: the judge asks again as soon as it has answers."""


def next_prompts(requests: queue.SimpleQueue[JudgeRequest], most: int) -> list[JudgePrompt]:
    """The next prompts, at least one: those that are there, and those that arrive within GATHER_SECONDS."""
    gathered = [requests.get()]
    deadline = time.monotonic() + GATHER_SECONDS
    while len(gathered) < most and (left := deadline - time.monotonic()) > 0:
        try:
            gathered.append(requests.get(timeout=left))
        except queue.Empty:
            break
    return [request for request in gathered if isinstance(request, JudgePrompt)]


class JudgeModel:
    """A loaded model that answers prompts greedily, as evaluation generates."""

    def __init__(self, opening: OpenJudge, tell: Callable[[JudgeMessage], None]) -> None:
        """Raises UserError for a model that cannot be loaded."""
        import torch

        from engine.chat.models import PROBE, PromptEncoder
        from engine.evaluation.generate import Generator, end_tokens
        from engine.methods.loading import load_pretrained
        from engine.methods.machine import this_machine
        from engine.methods.model_source import config_of, load_tokenizer, maximum_positions

        model, machine = Model(id=opening.model), this_machine()
        tell(JudgeNote(f"loading {opening.model} on {machine.name}"))
        self.device = machine.name
        tokenizer = load_tokenizer(model)
        dtype = torch.bfloat16 if machine.bf16 else torch.float32
        self.network = load_pretrained(model, machine, dtype).eval()
        self.encoder: PromptEncoder = PromptEncoder(tokenizer)
        self.positions = maximum_positions(config_of(model))
        ends = end_tokens(tokenizer, self.network, [self.encoder.row(PROBE)])
        self.generator: Generator = Generator(
            tokenizer,
            opening.answer_tokens,
            opening.batch,
            machine.device,
            ends,
            lambda code, text: tell(JudgeNote(text)),
        )

    def answers(self, prompts: Sequence[JudgePrompt]) -> list[JudgeAnswer]:
        """Answer prompts together; those that are too long for the model are refused."""
        began = time.monotonic()
        replies: list[JudgeAnswer] = []
        usable: dict[int, Row] = {}
        conversations = [  # a user's message, or for a model without chat template a text
            Conversation(messages=[{"role": "user", "content": prompt.prompt}])
            if self.encoder.chat
            else Conversation(messages=[], prompt=f"{prompt.prompt}\n")
            for prompt in prompts
        ]
        for prompt, row in zip(prompts, self.encoder.prompts(conversations), strict=True):
            if isinstance(row, Problem):
                replies.append(JudgeAnswer(number=prompt.number, refused=row.what))
            elif self.positions is not None and len(row.prompt) + self.generator.max_new_tokens > self.positions:
                refused = f"{len(row.prompt)} tokens and an answer are more than the model's {self.positions} positions"
                replies.append(JudgeAnswer(number=prompt.number, refused=refused))
            else:
                usable[prompt.number] = row
        tokens = self.generator.answer_tokens(self.network, list(usable.values())) if usable else []
        for (number, row), generated in zip(usable.items(), tokens, strict=True):
            answer = ChatAnswer(
                text=self.generator.texts([generated])[0],
                finish="stop" if self.generator.has_ended(generated) else "length",
                prompt_tokens=len(row.prompt),
                completion_tokens=len(generated),
                seconds=time.monotonic() - began,
            )
            replies.append(JudgeAnswer(number=number, answer=answer))
        return replies


def serve(requests: queue.SimpleQueue[JudgeRequest], tell: Callable[[JudgeMessage], None]) -> None:
    """Load the model, then answer prompts until the judge closes stdin."""
    opening = requests.get()
    assert isinstance(opening, OpenJudge), opening

    def waits(note: str) -> None:
        tell(JudgeNote(f"waiting in the device queue: {note}"))

    wait_for_device(select_devices(opening.device), Path(opening.place), waits).apply()
    tell(JudgeNote("loading libraries"))
    import_libraries()  # after the wait: it takes seconds
    from engine.methods.machine import is_out_of_memory
    from engine.training.guards import OutOfMemory

    try:
        model = JudgeModel(opening, tell)
        tell(JudgeReady(model.device))
        while True:
            for answer in model.answers(next_prompts(requests, opening.batch)):
                tell(answer)
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        text = f"not enough memory for {opening.model}: use a smaller model, --device cpu, or a served judge"
        raise RunFailed(text, "judge.out_of_memory") from error


def main() -> int:
    """Serve one judge; the last message of one that cannot continue tells why."""
    requests: queue.SimpleQueue[JudgeRequest] = queue.SimpleQueue()
    tell = Channel(int(sys.argv[1]), lambda line: requests.put(msgspec.json.decode(line, type=JudgeRequest))).send
    return tell_outcome(
        lambda: serve(requests, tell),
        lambda error: tell(RequestRefused.of(error)),
        lambda reason, code: tell(SessionFailed(reason=reason, code=code)),
    )


if __name__ == "__main__":
    redact_output()
    sys.exit(main())
