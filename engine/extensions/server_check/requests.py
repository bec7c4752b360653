"""The request of the command, in a process that leaves the GPU to the server."""

from __future__ import annotations

from typing import Any

from engine.hardware.devices import select_device
from engine.methods.library_imports import import_libraries
from engine.worker.requests import Progress


def server_check(arguments: dict[str, Any], progress: Progress) -> Any:
    """Check a server (`CheckRequest` -> `ServerCheck`)."""
    select_device("cpu").apply()
    import_libraries()
    from engine.extensions.server_check.asking import check_server

    return check_server(arguments, progress)
