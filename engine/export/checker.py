"""Check artifacts in new processes, by requests to `engine.worker.rpc_server`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.export.artifact_files import Progress
from engine.export.check_job import ArtifactCheck, CheckedKind, CheckJob
from engine.runs.rpc_client import ask
from engine.runs.run.run_dir import RunDir


@dataclass
class Checker:
    """Checks the artifacts of one run, after the logits of the run's own model."""

    run: RunDir
    work: Path
    """Folder for the logits."""
    progress: Progress
    seconds: float = 0.0
    """Duration of all checks so far."""

    def job(
        self,
        kind: CheckedKind,
        artifact: Path | None = None,
        quantize_base: bool = True,
        copied: Sequence[str] = (),
    ) -> CheckJob:
        """The check as a request."""
        return CheckJob(
            run=str(self.run.path),
            kind=kind,
            artifact=str(artifact or ""),
            quantize_base=quantize_base,
            copied=list(copied),
            logits=str(self.work / "logits.safetensors"),
        )

    def check(
        self,
        kind: CheckedKind,
        artifact: Path | None = None,
        quantize_base: bool = True,
        copied: Sequence[str] = (),
    ) -> ArtifactCheck:
        """Check one artifact; the options as in `CheckJob`. Raises UserError and RunFailed as `ask` does."""
        job = self.job(kind, artifact, quantize_base, copied)
        started = time.monotonic()
        answer = self.answer(job)
        self.seconds += time.monotonic() - started
        return answer

    def answer(self, job: CheckJob) -> ArtifactCheck:
        """The result of a check, computed in a new process."""
        result = ask("export.check", msgspec.to_builtins(job), self.progress, counted=self.progress)
        return msgspec.convert(result, ArtifactCheck)
