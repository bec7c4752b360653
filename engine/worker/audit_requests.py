"""Requests about what a step would do on a GPU; part of the RPC server, which imports what a request needs."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.config import schema
from engine.methods.quick_import import import_libraries
from engine.worker.artifact_requests import Progress


def audit(arguments: dict[str, Any], progress: Progress) -> Any:
    """Audit each configuration on fake tensors (`MethodAudit`); `micro_batch`: rows of a forward pass."""
    import_libraries()
    from engine.memory.audit.step_audit import audit_method
    from engine.memory.audit.synthetic_rows import log_normal_lengths, rows_of
    from engine.memory.dry_run.plan import model_config_of

    found = []
    for config in msgspec.convert(arguments["configs"], list[schema.Config]):
        progress(f"reading the configuration of {config.model.id}")
        model_config, _ = model_config_of(config.model)
        rows = rows_of(log_normal_lengths(config.train.batch, config.train.max_length))
        progress(f"auditing {config.method} on fake tensors")
        found.append(audit_method(config, model_config, rows, arguments["micro_batch"]))
    return msgspec.to_builtins(found)


AUDIT_REQUESTS = {"audit": audit}
