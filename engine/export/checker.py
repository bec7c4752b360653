"""Check artifacts in new processes: input, output, and requests to `engine.worker.rpc_server`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct, field

from engine.config.errors import Notice
from engine.export.artifact_files import Progress
from engine.runs.rpc_client import ask
from engine.runs.run.predictions import ScoredItem
from engine.runs.run.run_dir import RunDir

CheckedKind = Literal["run", "adapter", "merged", "gguf"]
"""Kind of artifact; `run` is the run's own model, of which only logits are measured."""


class CheckJob(Struct, kw_only=True):
    """What to check."""

    run: str
    """Run directory."""
    kind: CheckedKind
    artifact: str = ""
    quantize_base: bool = True
    """False: apply a QLoRA adapter to the base in 16 bits instead of the 4 bits of its training."""
    copied: list[str] = field(default_factory=list)
    """Tensors of the base that the class of the trained model does not load, and that were copied."""
    logits: str
    """File with the logits of the run's model: written for `run`, else compared with."""


class ArtifactCheck(Struct, kw_only=True):
    """What was found."""

    items: list[ScoredItem] = field(default_factory=list)
    """The artifact's answers and losses, in the order of the run's predictions."""
    ended: float | None = None
    seconds: float = 0.0
    """Generation time."""
    tokens: int = 0
    """Generated tokens."""
    defects: list[Notice] = field(default_factory=list)
    warnings: list[Notice] = field(default_factory=list)
    largest_logit_difference: float | None = None
    logits_compared: int = 0
    experts_changed: float | None = None
    logit_difference_with_same_experts: float | None = None
    logits_with_same_experts: int = 0
    tensor_types: dict[str, int] = field(default_factory=dict)
    vllm_names: bool | None = None
    """Whether vLLM's mapping of the family has the names of the weights; None for families that are not listed."""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def warn(self, code: str, text: str) -> None:
        self.warnings.append(Notice(code, text))

    def count(self, answers: list[list[int]], max_new_tokens: int) -> None:
        """Record the number of generated tokens and the share of answers that ended."""
        if answers:
            self.tokens = sum(map(len, answers))
            self.ended = sum(len(answer) < max_new_tokens for answer in answers) / len(answers)


@dataclass
class Checker:
    """Checks the artifacts of one run, after the logits of the run's own model."""

    run: RunDir
    work: Path
    """Folder for the logits."""
    progress: Progress
    seconds: float = 0.0
    """Duration of all checks so far."""

    def check(
        self,
        kind: CheckedKind,
        artifact: Path | None = None,
        quantize_base: bool = True,
        copied: Sequence[str] = (),
    ) -> ArtifactCheck:
        """Check one artifact; the options as in `CheckJob`. Raises UserError and RunFailed as `ask` does."""
        job = CheckJob(
            run=str(self.run.path),
            kind=kind,
            artifact=str(artifact or ""),
            quantize_base=quantize_base,
            copied=list(copied),
            logits=str(self.work / "logits.safetensors"),
        )
        started = time.monotonic()
        answer = self.answer(job)
        self.seconds += time.monotonic() - started
        return answer

    def answer(self, job: CheckJob) -> ArtifactCheck:
        """The result of a check, computed in a new process."""
        result = ask("export.check", msgspec.to_builtins(job), self.progress, counted=self.progress)
        return msgspec.convert(result, ArtifactCheck)
