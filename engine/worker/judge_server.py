"""Judge's worker: `python -m engine.worker.judge_server PID` answers a judge's prompts with a model on this machine.

Requests and messages are JSON lines (`engine.judge.local_judge`). The process is in the device queue while it waits and
as long as it runs; it ends with the judge's process.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.config.errors import RunFailed, UserError, error_text
from engine.config.redaction import redact_output
from engine.config.schema import Model
from engine.data.rows import Problem, Row
from engine.hardware.devices import select_devices
from engine.judge.local_judge import (
    JudgeAnswer,
    JudgeFailed,
    JudgeNote,
    JudgeReady,
    JudgeRefused,
    Message,
    OpenJudge,
    Prompt,
    Request,
)
from engine.methods.library_imports import import_libraries
from engine.runs import stopping
from engine.runs.chat_client import Conversation
from engine.runs.endpoint import ChatAnswer
from engine.runs.queue.device_queue import wait_for_devices
from engine.worker.rpc_server import MAX_REASON, encoded

if TYPE_CHECKING:
    from engine.chat.models import PromptEncoder
    from engine.evaluation.generate import Generator

GATHER_SECONDS = 0.02
"""Time for prompts to arrive that are answered together: the judge asks again as soon as it has answers."""


class Channel:
    """Reads requests in a thread and writes messages."""

    def __init__(self, requests: int, messages: int) -> None:
        """File descriptors."""
        self._messages = messages
        self._requests: queue.Queue[Request] = queue.Queue()
        threading.Thread(target=self._read, args=[requests], daemon=True, name="requests").start()

    def tell(self, message: Message) -> None:
        """Send one message; a client that has gone ends this process."""
        line = memoryview(encoded(msgspec.to_builtins(message)))
        try:
            while line:
                line = line[os.write(self._messages, line) :]
        except BrokenPipeError:
            os._exit(1)

    def first(self) -> OpenJudge:
        request = self._requests.get()
        assert isinstance(request, OpenJudge), request
        return request

    def prompts(self, most: int) -> list[Prompt]:
        """The next prompts, at least one: those that are there, and those that arrive within GATHER_SECONDS."""
        requests = [self._requests.get()]
        deadline = time.monotonic() + GATHER_SECONDS
        while len(requests) < most and (left := deadline - time.monotonic()) > 0:
            try:
                requests.append(self._requests.get(timeout=left))
            except queue.Empty:
                break
        return [request for request in requests if isinstance(request, Prompt)]

    def _read(self, descriptor: int) -> None:
        """Queue requests until stdin closes; then end the process, even while it generates."""
        buffer = b""
        try:
            while block := os.read(descriptor, 1 << 16):
                *lines, buffer = (buffer + block).split(b"\n")
                for line in lines:
                    self._requests.put(msgspec.json.decode(line, type=Request))
        finally:
            os._exit(0)


class JudgeModel:
    """A loaded model that answers prompts greedily, as evaluation generates."""

    def __init__(self, opening: OpenJudge, tell: Callable[[Message], None]) -> None:
        """Raises UserError for a model that cannot be loaded."""
        import torch
        from transformers.utils import logging as transformers_logging

        from engine.chat.models import PROBE, PromptEncoder
        from engine.evaluation.generate import Generator, end_tokens
        from engine.methods.loading import load_pretrained
        from engine.methods.machine import this_machine
        from engine.methods.model_source import config_of, load_tokenizer, maximum_positions

        transformers_logging.disable_progress_bar()
        transformers_logging.set_verbosity_error()
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

    def answers(self, prompts: Sequence[Prompt]) -> list[JudgeAnswer]:
        """Answer prompts together; those that are too long for the model are refused."""
        began = time.monotonic()
        replies: list[JudgeAnswer] = []
        usable: dict[int, Row] = {}
        for prompt, row in zip(
            prompts, self.encoder.prompts([self._conversation(prompt) for prompt in prompts]), strict=True
        ):
            if isinstance(row, Problem):
                replies.append(JudgeAnswer(number=prompt.number, refused=row.what))
            elif self._is_too_long(row):
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

    def _conversation(self, prompt: Prompt) -> Conversation:
        """The prompt as a user's message, or for a model without chat template as text."""
        if self.encoder.chat:
            return Conversation(messages=[{"role": "user", "content": prompt.prompt}])
        return Conversation(messages=[], prompt=f"{prompt.prompt}\n")

    def _is_too_long(self, row: Row) -> bool:
        return self.positions is not None and len(row.prompt) + self.generator.max_new_tokens > self.positions


def serve(channel: Channel) -> None:
    """Load the model, then answer prompts until the judge closes stdin."""
    opening = channel.first()
    devices = select_devices(opening.device)

    def waits(note: str) -> None:
        channel.tell(JudgeNote(f"waiting in the device queue: {note}"))

    taken = wait_for_devices(devices, time.time(), Path(opening.place), waits, lambda: False)
    assert taken is not None  # it is never cancelled: the process ends with the judge
    taken[0].apply()
    channel.tell(JudgeNote("loading libraries"))
    import_libraries()  # after the wait: it takes seconds
    from engine.methods.machine import is_out_of_memory
    from engine.training.guards import OutOfMemory

    try:
        model = JudgeModel(opening, channel.tell)
        channel.tell(JudgeReady(model.device))
        while True:
            for answer in model.answers(channel.prompts(opening.batch)):
                channel.tell(answer)
    except (RuntimeError, MemoryError, OutOfMemory) as error:
        if not isinstance(error, OutOfMemory) and not is_out_of_memory(error):
            raise
        text = f"not enough memory for {opening.model}: use a smaller model, --device cpu, or a served judge"
        raise RunFailed(text, "judge.out_of_memory") from error


def main() -> int:
    """Serve one judge; the last message of one that cannot continue is JudgeRefused or JudgeFailed."""
    # Libraries may print to stdout: messages use a duplicate of it, and stdout itself becomes stderr.
    messages = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stopping.die_with_parent(int(sys.argv[1]))
    channel = Channel(os.dup(sys.stdin.fileno()), messages)
    try:
        serve(channel)
    except UserError as error:
        channel.tell(JudgeRefused.of(error))
        return 2
    except RunFailed as error:
        channel.tell(JudgeFailed(reason=str(error), code=error.code))
    except Exception as error:  # noqa: BLE001 - top level: report every error to the judge
        channel.tell(JudgeFailed(reason=error_text(error, MAX_REASON)))
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    redact_output()
    sys.exit(main())
