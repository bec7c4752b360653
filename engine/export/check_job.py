"""Input and output of a check (`engine.export.artifact_check`)."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from engine.evaluation.predictions import ScoredItem
from engine.runs.run.exports import CheckWarning, Defect

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
    defects: list[Defect] = field(default_factory=list)
    warnings: list[CheckWarning] = field(default_factory=list)
    largest_logit_difference: float | None = None
    logits_compared: int = 0
    tensor_types: dict[str, int] = field(default_factory=dict)
    vllm_names: bool | None = None
    """Whether vLLM's mapping of the family has the names of the weights; None for families that are not listed."""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def warn(self, code: str, text: str) -> None:
        self.warnings.append(CheckWarning(code, text))

    def count(self, answers: list[list[int]], max_new_tokens: int) -> None:
        """Record the number of generated tokens and the share of answers that ended."""
        if answers:
            self.tokens = sum(map(len, answers))
            self.ended = sum(len(answer) < max_new_tokens for answer in answers) / len(answers)
