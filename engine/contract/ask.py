"""A question to the engine: one short-lived process that may import what the screen must not.

The question's arguments go in as JSON on stdin; the answer comes out as JSON lines, progress first.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import msgspec

from engine.contract.errors import RunFailed, UserError


def ask(question: str, arguments: dict[str, Any], progress: Callable[[str], None] | None = None) -> Any:
    """Run `python -m engine.answer QUESTION` and return its answer.

    Raises UserError for what the answerer refuses and RunFailed where it breaks.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "engine.answer", question],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"},
        )
        assert process.stdin and process.stdout
        try:
            process.stdin.write(msgspec.json.encode(arguments))
            process.stdin.close()
            answer = None
            for line in process.stdout:
                message = msgspec.json.decode(line)
                if "progress" in message and progress:
                    progress(message["progress"])
                answer = message if "progress" not in message else answer
            process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if answer is None:
            errors.seek(0)
            tail = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:] or [
                f"exit status {process.returncode}"
            ]
            raise RunFailed(f"{question} broke: {tail[0]}")
    if "error" in answer:
        raise UserError(answer["error"]["what"], answer["error"]["where"], answer["error"]["do"])
    return answer["answer"]
