"""Train one method on one model and run its checks: every error becomes a failed check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from engine.config.activation_checkpointing import describe_checkpointing
from engine.config.files import SCRATCH_PREFIX, temporary_folder
from engine.config.method_specs import method_title
from engine.methods.machine import Machine
from engine.runs.training_report import (
    CHECKS,
    DECODING,
    MODELS,
    OUT_OF_MEMORY,
    PACKED_LOSS,
    PAGING,
    PEAK_MEMORY,
    THROUGHPUT,
    TRAINING,
    ModelChoice,
    TrainingCheck,
    TrainingReport,
    broken_report,
)
from engine.training.guards import free_memory
from engine.worker.training_checks.decoding import check_decoding
from engine.worker.training_checks.memory import (
    Peaks,
    check_out_of_memory,
    check_peak_memory,
    measured_peaks,
)
from engine.worker.training_checks.packed_loss import check_packed_loss
from engine.worker.training_checks.paging import check_paging
from engine.worker.training_checks.speed import Speed, check_throughput, check_training, measured_speed
from engine.worker.training_checks.subjects import subject_of
from engine.worker.training_checks.training_session import TrainingSession

MAX_REASON = 300
"""Characters of a failure's reason."""


class Checks:
    """The checks of one trained session, with what they measured."""

    def __init__(self, session: TrainingSession) -> None:
        self.session = session
        self.speed: Speed | None = None
        self.peaks: Peaks | None = None
        self.by_name: Mapping[str, Callable[[], TrainingCheck]] = {
            TRAINING: self._training,
            THROUGHPUT: self._throughput,
            PEAK_MEMORY: self._peak_memory,
            PAGING: lambda: check_paging(session),
            OUT_OF_MEMORY: lambda: check_out_of_memory(session),
            PACKED_LOSS: lambda: check_packed_loss(session),
            DECODING: lambda: check_decoding(session),
        }

    def run(self, name: str) -> TrainingCheck:
        """The verdict of one check; an error is a failure."""
        try:
            return self.by_name[name]()
        except Exception as error:  # noqa: BLE001 - any failure of a library is the answer
            return TrainingCheck(name=name, state="failed", text=reason(error))

    def _training(self) -> TrainingCheck:
        session = self.session
        learns = session.subject.tokenizer is not None
        return check_training(session.steps.losses, session.loss_before, session.loss_after, learns)

    def _throughput(self) -> TrainingCheck:
        self.speed = measured_speed(self.session)
        return check_throughput(self.speed)

    def _peak_memory(self) -> TrainingCheck:
        self.peaks = measured_peaks(self.session)
        return check_peak_memory(self.peaks, self.session.machine.device)


def check_method(
    method: str, choice: ModelChoice, machine: Machine, scratch: Path, progress: Callable[[str], None]
) -> TrainingReport:
    """Train `method` for a few steps and run the checks of this model; `scratch`: where weights are written."""
    with temporary_folder(SCRATCH_PREFIX) as folder:
        name, title = method_title(method), MODELS[choice]
        try:
            progress(f"{name}, {title}: loading")
            subject = subject_of(choice, method, machine, scratch)
            title = subject.title
            progress(f"{name}, {title}: planning")
            session = TrainingSession(subject, machine, folder)
            progress(f"{name}, {title}: {subject.steps} steps")
            session.train()
        except Exception as error:  # noqa: BLE001 - any failure of the method or of a library is the answer
            return broken_report(method, choice, title, machine.name, reason(error))
        checks, found = Checks(session), []
        for check in CHECKS[choice]:
            progress(f"{name}, {title}: {check}")
            found.append(checks.run(check))
        report = _report(checks, found)
    del session, checks
    free_memory()
    return report


def reason(error: Exception) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_REASON]


def _report(checks: Checks, found: list[TrainingCheck]) -> TrainingReport:
    session, speed, peaks = checks.session, checks.speed, checks.peaks
    best, why = session.estimates.best, session.subject.why
    return TrainingReport(
        method=session.config.method,
        model=session.subject.title,
        device=session.machine.name,
        precision=str(session.dtype).removeprefix("torch."),
        optimizer=session.optimizer_name,
        parameters=best.parameters if best else None,
        packing=session.packing.mode,
        micro_batch=session.trainer.micro_batch,
        gradient_checkpointing=describe_checkpointing(session.checkpointing.setting),
        steps=len(session.steps.losses),
        tokens_per_second=speed.tokens_per_second if speed else None,
        seconds_per_step=speed.seconds_per_step if speed else None,
        mfu=speed.mfu if speed else None,
        peak_flops=speed.peak_flops if speed else None,
        peak=peaks.measured if peaks else None,
        peak_probe=peaks.probe if peaks else None,
        peak_dry_run=peaks.dry_run if peaks else None,
        peak_formula=peaks.formula if peaks else None,
        notes=[*([f"no larger shape ({why})"] if why else []), *session.notes],
        checks=found,
    )
