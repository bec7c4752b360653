"""A checker of artifacts that computes in the process of a test, which has imported the libraries."""

from __future__ import annotations

from engine.export import artifact_check
from engine.export.artifact_check import ArtifactCheck, Checker, CheckJob


class LocalChecker(Checker):
    """Checks without a new process."""

    def answer(self, job: CheckJob) -> ArtifactCheck:
        return artifact_check.check(job, self.progress)
