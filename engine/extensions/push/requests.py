"""What a process that may import huggingface_hub answers about repositories of the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from engine.worker.requests import Progress


def push_check(arguments: dict[str, Any], progress: Progress) -> Any:
    """The full name of a Hub repository that can be pushed to."""
    from engine.extensions.push.hub import check_repository

    return check_repository(arguments["repository"], arguments["public"])


def push(arguments: dict[str, Any], progress: Progress) -> Any:
    """Push an artifact to the Hub (`PushResult`)."""
    from engine.extensions.push.hub import push

    return msgspec.to_builtins(push(Path(arguments["folder"]), arguments["repository"], arguments["public"], progress))
