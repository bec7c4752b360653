"""The exports of a ladder: artifacts of its finished runs, each written, checked and scored in a new process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.ladder.phrases import rung_title
from engine.ladder.runner import LadderRunner
from engine.runs.exports import (
    Artifact,
    Fidelity,
    export_arguments,
    exports_folder,
    read_fidelity,
    read_item_scores,
    remove_unfinished,
)
from engine.runs.ladder import LadderEntry
from engine.runs.rpc_client import Cancelled, CancelToken, ask
from engine.runs.run_dir import RunDir
from engine.runs.rungs import LadderPlan, artifact_of
from engine.runs.stop_request import StopRequest, StopRequested

SAVE_SECONDS = 1.0
"""Minimum time between two updates of an export's progress in `ladder.json`."""
STOP_POLL_SECONDS = 0.2


def require_gguf_tools(plan: LadderPlan) -> None:
    """Raises UserError if the plan has GGUF artifacts and this machine has no tools for them."""
    artifacts = [found[1] for name in plan.ship if (found := artifact_of(name))]
    if any(artifact.kind == "gguf" for artifact in artifacts):
        ask("export.tools", {})


@dataclass
class ArtifactExports:
    """Exports the artifacts of a plan. An artifact that exists with scores for all test items is reused."""

    runner: LadderRunner
    plan: LadderPlan

    def list_entries(self) -> None:
        """Add an entry for every export; one whose artifact was deleted since is planned again."""
        for name in self.plan.ship:
            found = artifact_of(name)
            for seed in self.plan.seeds:
                entry = self._entry(name, seed)
                run = RunDir((self.runner.dir.runs / entry.run).parent.parent)
                if entry.status == "finished" and not (found and scored_export(run, found[1])):
                    entry.status, entry.reason = "planned", ""

    def export(self) -> Iterator[LadderEntry]:
        """Export the artifacts one after another and yield the entry of each.

        A failed export is reported and does not end the ladder; the same artifact of other seeds is skipped. Raises
        StopRequested if the ladder was stopped.
        """
        for name in self.plan.ship:
            failed = ""
            for seed in self.plan.seeds:
                self.runner.stopping.check()
                entry = self._entry(name, seed)
                if failed:
                    entry.status, entry.reason = "skipped", failed
                else:
                    self._export(entry)
                    failed = entry.reason if entry.status == "failed" else ""
                self.runner.save()
                yield entry

    def _entry(self, name: str, seed: int) -> LadderEntry:
        return self.runner.entry(LadderEntry(rung=name, kind="export", seed=seed, learning_rate=0.0))

    def _export(self, entry: LadderEntry) -> None:
        found = artifact_of(entry.rung)
        assert found is not None
        rung, artifact = found
        entries = self.runner.ladder.entries
        source = next(e for e in entries if (e.rung, e.kind, e.seed) == (rung, "run", entry.seed))
        entry.learning_rate = source.learning_rate
        if source.status != "finished":
            entry.status, entry.reason = "skipped", f"{rung} has no finished run with seed {entry.seed}"
            return
        run = RunDir(self.runner.dir.runs / source.run)
        folder = exports_folder(run) / artifact.folder
        entry.run = str(folder.relative_to(self.runner.dir.runs))
        fidelity = scored_export(run, artifact)
        entry.reused = fidelity is not None and (entry.reused or entry.status != "finished")
        try:
            self._record(entry, fidelity or self._ask(entry, run, artifact))
        except (UserError, RunFailed) as error:
            entry.status = "failed"
            entry.reason = error.line if isinstance(error, UserError) else str(error)
            self.runner.warn("ladder.export_failed", f"{rung_title(entry.rung)}, seed {entry.seed}: {entry.reason}")

    def _ask(self, entry: LadderEntry, run: RunDir, artifact: Artifact) -> Fidelity:
        """Export in a new process, which a stop request ends. Raises StopRequested, and UserError and RunFailed."""
        entry.status, entry.reason, entry.progress = "live", "", ""
        self.runner.save()
        print(f"[{time.strftime('%H:%M:%S')}] export {entry.rung} seed {entry.seed}: {entry.run}", flush=True)
        question = export_arguments(
            run, artifact.kind, artifact.requested_type, margin=self.plan.margin, overwrite=True
        )
        saved = 0.0

        def progress(text: str, done: int | None = None, total: int | None = None) -> None:
            nonlocal saved
            entry.progress = text if done is None or total is None else f"{text} {done}/{total}"
            if time.monotonic() - saved >= SAVE_SECONDS:
                saved = time.monotonic()
                self.runner.save()

        token = CancelToken()
        try:
            with _cancelled_by(self.runner.stopping, token):
                answer = ask("export", question, progress, token, counted=progress)
        except Cancelled as error:
            remove_unfinished(run)
            entry.status, entry.run = "planned", ""
            raise StopRequested from error
        finally:
            entry.progress = ""
        return msgspec.convert(answer["fidelity"], Fidelity)

    def _record(self, entry: LadderEntry, fidelity: Fidelity) -> None:
        entry.status, entry.reason, entry.seconds = "finished", "", fidelity.write_seconds
        for defect in fidelity.defects:
            text = f"{rung_title(entry.rung)}, seed {entry.seed}, has a defect: {defect.text}"
            self.runner.warn("ladder.artifact_defect", text)


def scored_export(run: RunDir, artifact: Artifact) -> Fidelity | None:
    """The check of an artifact of the run that exists with a score for each of its test items, else None."""
    folder = exports_folder(run) / artifact.folder
    try:
        fidelity, scored = read_fidelity(folder), len(read_item_scores(folder))
        items = sum(1 for line in run.predictions_file.read_bytes().split(b"\n") if line)
    except (UserError, OSError):
        return None
    return fidelity if fidelity.run == run.name and scored == items > 0 else None


@contextlib.contextmanager
def _cancelled_by(stopping: StopRequest, token: CancelToken) -> Iterator[None]:
    """Cancel a request of this thread as soon as a stop is requested."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(STOP_POLL_SECONDS):
            if stopping.requested:
                token.cancel()
                return

    watcher = threading.Thread(target=watch, daemon=True, name="watch for a stop request")
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
