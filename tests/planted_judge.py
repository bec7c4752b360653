"""A local server with OpenAI's chat completions API whose answers and faults are planted."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from typing import Any

from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir

Reply = Callable[[dict[str, Any]], str | dict[str, Any]]
"""The text of an answer, or a whole response with `status` and `body`."""
QUALITY = re.compile(r"quality (-?\d+\.\d+)")


class PlantedServer:
    """Counts requests; `reply` answers them."""

    def __init__(self, reply: Reply, key: str = "", models: tuple[str, ...] = ("planted",)) -> None:
        self.reply, self.key, self.models = reply, key, models
        self.check: Reply = lambda request: "OK"
        """Answers the client's check, which is before its first question."""
        self.requests: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.mutex = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                self._send(200, {"data": [{"id": name} for name in server.models]})

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.mutex:
                    server.requests.append(request)
                    server.at_once += 1
                    server.most_at_once = max(server.most_at_once, server.at_once)
                try:
                    self._answer(request)
                finally:
                    with server.mutex:
                        server.at_once -= 1

            def _answer(self, request: dict[str, Any]) -> None:
                if server.key and self.headers.get("Authorization") != f"Bearer {server.key}":
                    self._send(401, {"error": {"message": f"invalid key {self.headers.get('Authorization')}"}})
                elif request["model"] not in server.models:
                    self._send(404, {"error": {"message": f"The model `{request['model']}` does not exist."}})
                else:
                    answer = (server.check if request["max_tokens"] == 1 else server.reply)(request)
                    if isinstance(answer, str):
                        self._send(200, completion(answer))
                    elif answer["status"] == 0:
                        self.close_connection = True
                        self.connection.close()
                    else:
                        self._send(answer["status"], answer["body"], answer.get("headers", {}))

            def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
                content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self.name = f"{self.url}#{models[0]}"

    @contextlib.contextmanager
    def running(self) -> Iterator[PlantedServer]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()


def planted(reply: Reply, **options: Any) -> contextlib.AbstractContextManager[PlantedServer]:
    """A running server."""
    return PlantedServer(reply, **options).running()


def completion(text: str | None, **message: Any) -> dict[str, Any]:
    """A response with usage."""
    finish = message.pop("finish_reason", "stop")
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}


def answers_in(request: dict[str, Any]) -> tuple[str, str]:
    """The two answers in a judge's prompt."""
    prompt = request["messages"][-1]["content"]
    matches = [re.search(rf"\[answer {name} (\w+)\]\n(.*)\n\[end of answer {name} \1\]", prompt, re.S) for name in "AB"]
    assert matches[0] and matches[1], prompt
    return matches[0][2], matches[1][2]


def chance(request: dict[str, Any], salt: str = "") -> float:
    """A number from 0 to 1 that depends on the prompt alone."""
    content = salt + request["messages"][-1]["content"]
    return int.from_bytes(hashlib.sha256(content.encode()).digest()[:6]) / 2**48


def quality(text: str) -> float:
    match = QUALITY.search(text)
    return float(match[1]) if match else -1.0


def verdict(letter: str) -> str:
    return f"One answer does more of what is asked.\nVerdict: {letter}"


def perfect(request: dict[str, Any]) -> str:
    """Prefers the answer of the higher quality."""
    first, second = map(quality, answers_in(request))
    return verdict("A" if first > second else "B" if second > first else "tie")


def noisy(rate: float) -> Reply:
    """Perfect, but the other verdict at this rate."""
    other = {"A": "B", "B": "A", "tie": "tie"}

    def reply(request: dict[str, Any]) -> str:
        letter = perfect(request).rpartition(" ")[2]
        return verdict(other[letter] if chance(request) < rate else letter)

    return reply


def prefers_first(rate: float) -> Reply:
    """The first answer at this rate whatever the answers are, else perfect."""
    return lambda request: verdict("A") if chance(request) < rate else perfect(request)


def prefers_longer(request: dict[str, Any]) -> str:
    first, second = map(len, answers_in(request))
    return verdict("A" if first > second else "B")


def slow(seconds: float) -> Reply:
    def reply(request: dict[str, Any]) -> str:
        time.sleep(seconds)
        return perfect(request)

    return reply


def failing(*faults: dict[str, Any]) -> Reply:
    """Each of these faults once, then perfect."""
    left = list(faults)
    mutex = threading.Lock()

    def reply(request: dict[str, Any]) -> str | dict[str, Any]:
        with mutex:
            return left.pop(0) if left else perfect(request)

    return reply


def answer_text(item: int, of: str, quality: float, words: int = 6) -> str:
    """An answer whose quality a planted judge can read; `of` makes it unlike that of other rungs."""
    return f"Item {item}, {hashlib.sha256(of.encode()).hexdigest()[:6]}: quality {quality:.6f}. " + "word " * words


def plant_answers(
    folder: LadderDir, qualities: dict[str, float], items: int = 60, words: dict[str, int] | None = None
) -> None:
    """Write the answers of a made ladder: `qualities` is the mean by rung, the spread over items is 1."""
    state = folder.state()
    assert state is not None
    for entry in state.entries:
        if entry.kind != "run":
            continue
        run = RunDir(folder.runs / entry.run)
        lines = []
        for item in range(items):
            texts = {}
            for rung, seed in ((entry.rung, entry.seed), ("base", 0)):
                draw = random.Random(f"{rung} {seed} {item}").gauss(qualities[rung], 1.0)
                texts[rung] = answer_text(item, f"{rung} {seed}", draw, (words or {}).get(rung, 6))
            line = {
                "item": item,
                "where": f"test.jsonl line {item + 1}",
                "prompt": f"<|im_start|>user\nQuestion {item}?<|im_end|>\n<|im_start|>assistant\n",
                "target": f"The answer to {item}.",
                "base": _scored(texts["base"]) if entry.rung in ("qlora", "lora") else None,
                "tuned": _scored(texts[entry.rung]),
            }
            lines.append(json.dumps(line))
        run.predictions_file.write_text("\n".join(lines) + "\n")


def _scored(output: str) -> dict[str, Any]:
    share = min(max(0.5 + quality(output) / 10, 0.0), 1.0)
    return {"nll": 10.0, "tokens": 20, "output": output, "scores": {"exact_match": share}}


def true_win_rate(a: float, b: float) -> float:
    """Probability that an answer of mean quality a is better than one of mean quality b, both with spread 1."""
    return NormalDist().cdf((a - b) / math.sqrt(2))


def plant_model(folder: Path, answer: str, positions: int = 8192) -> Path:
    """Write a model that gives the same answer to every prompt: each of its tokens has one successor.

    Its tokenizer and chat template are the embedded model's. No token can be in the answer twice.
    """
    import torch  # seconds: only tests of judges on this machine need it
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from engine.assets import tiny_folder

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    start = tokenizer("assistant\n", add_special_tokens=False).input_ids[-1:]
    chain = [*start, *tokenizer(answer, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    assert len(set(chain)) == len(chain), chain
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=positions,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    layer, words = model.model.layers[0], model.model.embed_tokens.weight.data
    words.normal_()
    for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight, model.lm_head.weight):
        weight.data.zero_()
    for before, after in pairwise(chain):
        model.lm_head.weight.data[after] = words[before]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
