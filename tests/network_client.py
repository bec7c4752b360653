"""`python network_client.py`: performs one request after another with a client of ours, in a process of its own.

Each line on stdin is `CLIENT URL`; the reply on stdout is a line of JSON: how long it took, what it raised, and by how
much the memory of the process grew meanwhile.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SECONDS = 0.4
"""Timeout of every attempt."""
CONCURRENCY = 8
MANY = 256


def judge(url: str, concurrency: int = CONCURRENCY, words: int = 200_000) -> None:
    """As many requests at a time as a judge sends."""
    from engine.runs.endpoint import EndpointClient, parse_endpoint

    client = EndpointClient(parse_endpoint(f"{url}/v1#model", "--judge"), SECONDS, concurrency)
    question = [{"role": "user", "content": "word " * words}]  # 1 MB: more than sockets buffer
    with ThreadPoolExecutor(concurrency) as pool:
        answers = [pool.submit(client.chat, question, 8, tries=1) for _ in range(concurrency)]
    for answer in answers:
        answer.result()


def judges(url: str) -> None:
    """With `--concurrency 256`."""
    judge(url, MANY, 60_000)


def models(url: str) -> None:
    from engine.runs.endpoint import EndpointClient, parse_endpoint

    if not EndpointClient(parse_endpoint(f"{url}/v1#model", "--judge"), SECONDS).models():
        raise ValueError("no models")


def pull(url: str) -> None:
    """The first request of a download."""
    from engine.methods import pull

    pull.ETAG_SECONDS = SECONDS
    pull.download("team/small", lambda done, total: None, Path(os.environ["HF_HOME"], "model"))


def dataset(url: str) -> None:
    from engine.data.readers import arrow_files

    arrow_files.TRY_SECONDS = SECONDS
    with arrow_files.hub_or_cache("team/rows") as failure:
        if failure is not None:
            raise failure


def push(url: str) -> None:
    from engine.extensions.push.hub import check_repository

    check_repository("team/tickets", False)


def configuration(url: str) -> None:
    """The first request of transformers for a model of the Hub, as transformers sends it."""
    from huggingface_hub import get_hf_file_metadata

    from engine.config.schema import Model
    from engine.methods.model_source import locate

    locate(Model(id="team/small"))
    get_hf_file_metadata(f"{url}/team/small/resolve/main/config.json", timeout=SECONDS)


def file(url: str) -> None:
    """The download of a file, without another attempt."""
    from huggingface_hub import file_download

    with Path(os.devnull).open("wb") as target:
        file_download.http_get(f"{url}/team/small/resolve/main/model.safetensors", target, _nb_retries=0)


def upload(url: str) -> None:
    """The upload of 16 MiB."""
    from huggingface_hub import get_session

    get_session().put(f"{url}/file", content=io.BytesIO(bytes(16 << 20)))


CLIENTS: dict[str, Callable[[str], None]] = {
    function.__name__: function
    for function in (judge, judges, models, pull, dataset, push, configuration, file, upload)
}


def memory() -> Iterator[int]:
    """Bytes of this process now, and then the largest number since."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    for name in ("VmRSS", "VmHWM"):
        status = Path("/proc/self/status").read_text()
        yield int(status.partition(f"{name}:")[2].split()[0]) << 10


def main() -> None:
    from engine.config import http_client

    http_client.HUB_SECONDS = http_client.DOWNLOAD_SECONDS = SECONDS  # type: ignore[assignment]
    http_client.bound_hub_client()
    from huggingface_hub import constants

    for line in sys.stdin:
        client, url = line.split()
        constants.ENDPOINT = url
        error, measured = "", memory()
        idle, began = next(measured), time.monotonic()
        try:
            CLIENTS[client](url)
        except Exception as raised:  # noqa: BLE001 - the test looks at every error
            error = f"{type(raised).__name__}: {raised}"[:300]
        reply = {"seconds": time.monotonic() - began, "grown": next(measured) - idle, "error": error}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
