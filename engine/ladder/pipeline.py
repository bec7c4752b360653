"""Runs the stages of a ladder: preparation, probes, trials, runs, rungs of extensions, exports, analysis, report."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Sequence
from statistics import median
from typing import Any

import msgspec

from engine.config import quantities
from engine.config.device_defaults import answers_together
from engine.config.errors import RunFailed, UserError, error_text, reason_of, system_hint, system_refusal
from engine.config.files import is_no_space_error
from engine.config.method_specs import method_spec
from engine.config.schema import UNPROBED_KEYS, Config
from engine.config.settings import setting_specs, with_settings
from engine.hardware.devices import device_settings, runs_at_once
from engine.ladder import report
from engine.ladder.added_rungs import check_added, examples_of_base, let_answer, record_failure, with_examples
from engine.ladder.aggregate import aggregate, memory_of_full
from engine.ladder.artifacts import export_artifact, scored_export
from engine.ladder.phrases import rung_title
from engine.ladder.results import worked_seconds
from engine.ladder.runner import LadderRunner, PlannedRun
from engine.ladder.sentences import conclude
from engine.ladder.sequential import decide_questions, next_look
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir
from engine.runs.ladder.ladder_plan import differing_settings, refuse_missing_splits, shared
from engine.runs.ladder.ladder_state import (
    BASE_4BIT,
    FIRST_LOOK,
    Ladder,
    LadderEntry,
    LadderPlan,
    Outcome,
    Rung,
    RungDuration,
    SharedWork,
    Stage,
    artifact_of,
    halving_rounds,
    rate_grid,
)
from engine.runs.rpc_client import ask
from engine.runs.run.event_log import stream
from engine.runs.run.events import Step
from engine.runs.run.folder import State
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest, StopRequested

PROBE_STEPS = 4
"""The first step warms up and is not timed."""


def probe_config(config: Config, device: str) -> Config:
    """A few steps and one batch of answers; an upper bound, because an untrained model generates longer answers.

    `device`: cpu or cuda. The batch is the largest that the run may decide on: fewer rows take as long on a GPU.
    """
    batch = answers_together(config.evaluation.batch, device)
    rows = min(batch, config.evaluation.rows or batch)
    return with_settings(
        config,
        {
            "train.steps": PROBE_STEPS,
            "train.evaluate_every": PROBE_STEPS + 1,
            "train.select": "last",
            "train.patience": None,
            "train.checkpoint_every": PROBE_STEPS + 1,
            "train.probe": False,  # the worker's own memory probe would take half as long again
            "evaluation.when": "after",
            "evaluation.rows": rows,
            "evaluation.forgetting_text": "none",
            **{key: setting_specs()[key].default for key in UNPROBED_KEYS},
        },
    )


def best_trials(trials: Sequence[LadderEntry]) -> list[LadderEntry]:
    """The trials with a validation loss, the lowest first."""
    finished = [trial for trial in trials if trial.status == "finished" and trial.validation_loss is not None]
    return sorted(finished, key=lambda trial: trial.validation_loss or 0.0)


NOT_RETRIED = ("out_of_memory", "failed", "died")
"""Outcomes that would be the same with another seed or rate."""
SAVE_SECONDS = 1.0
"""Minimum time between two updates of an export's progress in `ladder.json`."""


class LadderPipeline:
    """Runs the stages of one ladder. After an interruption all stages are repeated and reuse what has finished."""

    def __init__(self, runner: LadderRunner, plan: LadderPlan, share_bases: Callable[[], None] = lambda: None) -> None:
        """`share_bases`: fills in the ladder's `base_runs`, where it is one of several."""
        self.runner, self.ladder, self.plan, self.share_bases = runner, runner.ladder, plan, share_bases
        self.base_scorers: dict[bool, LadderEntry | None] = {}
        """Whether the base is in 4 bits -> the run that scores it; None if another ladder scored it."""

    def run(self) -> None:
        """Run all stages. Raises StopRequested, and UserError if data or model are refused."""
        self.measure()
        self.try_rates()
        self.train()
        self.answer_items()
        self.export()
        self.analyze()

    def measure(self) -> None:
        """Run the stages that tell how long the others will take. Raises as `run` does."""
        self.prepare()
        self.list_entries()
        self.probe()

    def pending_runs(self) -> dict[str, RungDuration | None]:
        """Identity -> expected duration of every trial and run that has no finished run yet; None if not measured."""
        self.runner.index_runs()
        known = {estimate.rung: estimate for estimate in self.ladder.estimates}
        pending: dict[str, RungDuration | None] = {}
        for entry in self.ladder.entries:
            if entry.kind not in ("trial", "run") or entry.is_done:
                continue
            configs = self._possible_configs(next(rung for rung in self.plan.rungs if rung.name == entry.rung), entry)
            if not any(self.runner.has_finished(entry, config) for config in configs):
                pending[self.runner.identity(configs[0])] = known.get(entry.rung)
        return pending

    def prepare(self) -> None:
        """Record what all rungs share, read from data and model."""
        self._enter("preparing")
        ladder, plan = self.ladder, self.plan
        artifacts = [parts[1] for name in plan.ship if (parts := artifact_of(name))]
        for kind in {artifact.kind for artifact in artifacts if artifact.format.needs_tools}:
            ask("export.tools", {"kind": kind})  # raises UserError if this machine has no tools for it
        if plan.rungs[0].config.executor.name == "local":
            ladder.runs_at_once = runs_at_once(device_settings(rung.config) for rung in plan.rungs)
        workload = ask("ladder.workload", {"config": msgspec.to_builtins(plan.rungs[0].config)}, print)
        ladder.work = msgspec.convert(workload["work"], SharedWork)
        ladder.versions, ladder.machine = workload["versions"], workload["machine"]
        for notice in workload["warnings"]:
            self.runner.warn(notice["code"], notice["text"])
        ladder.differs, ladder.config = differing_settings(plan.rungs), shared(plan.rungs)
        refuse_missing_splits(ladder.work.test, ladder.work.validation, plan.learning_rates)
        check_added(plan.added, ladder.work.metric, self.runner.stopping)
        rates = {rung.config.train.learning_rate for rung in plan.rungs}
        kinds = {method_spec(rung.method).trains for rung in plan.rungs}
        if len(kinds) > 1 and len(rates) == 1 and plan.learning_rates == 1:
            text = "all rungs use the same learning rate: full fine-tuning needs about a tenth of LoRA's"
            self.runner.warn("ladder.equal_learning_rates", text)

    def list_entries(self) -> None:
        """Add an entry for everything that is planned, so that the ladder shows it from the start."""
        plan = self.plan
        for rung in plan.rungs if plan.probe else []:
            self.runner.entry(rung.name, "probe", plan.seeds[0], rung.config.train.learning_rate)
        for rung in plan.rungs if plan.learning_rates > 1 else []:
            self._trials(rung, self._grid(rung), self._rounds()[0][1])
        for seed in plan.seeds[:FIRST_LOOK] if plan.until_decided else plan.seeds:
            for rung in plan.rungs:
                self.runner.entry(rung.name, "run", seed, rung.config.train.learning_rate)
        for name in plan.ship:
            artifact = artifact_of(name)
            for seed in plan.seeds:
                entry = self.runner.entry(name, "export", seed, 0.0)
                run = RunDir((self.runner.dir.runs / entry.run).parent.parent)
                if entry.status == "finished" and not (artifact and scored_export(run, artifact[1])):
                    entry.status, entry.reason = "planned", ""  # the artifact was deleted
        self.runner.save()

    def probe(self) -> None:
        """Run a few steps and one scored batch of every rung: its duration, and whether it fits in memory."""
        if not self.plan.probe:
            return
        self._enter("probing")
        ladder, work, seed = self.ladder, self.ladder.work, self.plan.seeds[0]
        assert work is not None
        device = "cuda" if "cuda" in ladder.machine else "cpu"
        runs = [
            (rung, self.runner.entry(rung.name, "probe", seed, rung.config.train.learning_rate))
            for rung in self.plan.rungs
        ]
        for (rung, entry), result in self.runner.execute(runs, lambda rung, _: probe_config(rung.config, device)):
            if result is None:
                self.runner.exclude(entry)
                continue
            events = stream(self.runner.run_of(entry).events_file, Step)
            steps = [event.seconds for event in events if isinstance(event, Step)][1:] or [result.step_seconds]
            scored_items = result.after.score.rows if result.after else 0
            scoring = result.seconds.get("evaluation", 0.0)
            overhead = max(0.0, worked_seconds(result) - scoring - result.step_seconds)
            ladder.estimates = [known for known in ladder.estimates if known.rung != rung.name]
            ladder.estimates.append(
                RungDuration(
                    rung=rung.name,
                    low=overhead + work.steps * min(steps),
                    high=overhead + work.steps * max(steps) + scoring * max(1.0, work.test / max(1, scored_items)),
                    step_seconds=median(steps),
                    steps_measured=len(steps),
                )
            )
            self.runner.save()

    def try_rates(self) -> None:
        """Choose each rung's learning rate by the loss on the validation rows, in rounds of successive halving.

        The test rows are not used.
        """
        plan, trials = self.plan, dict[str, list[LadderEntry]]()
        if plan.learning_rates == 1:
            return
        self._enter("tuning")
        rates = {rung.name: self._grid(rung) for rung in plan.rungs}
        for size, steps in self._rounds():
            for name, tried in trials.items():
                rates[name] = [trial.learning_rate for trial in best_trials(tried)[:size]]
            trials = {rung.name: self._trials(rung, rates[rung.name], steps) for rung in plan.rungs}
            runs = [(rung, trial) for rung in plan.rungs for trial in trials[rung.name]]
            for (_, trial), result in self.runner.execute(runs, self._choose_config):
                if result is None and trial.status in NOT_RETRIED:
                    self.runner.exclude(trial)

        for rung in plan.rungs:
            best, grid = best_trials(trials[rung.name]), self._grid(rung)
            if not best:
                entries = [e for e in self.ladder.entries if (e.rung, e.kind) == (rung.name, "trial")]
                reason = next((entry.reason for entry in entries if entry.reason), "no trial has a finite loss")
                self.runner.excluded.setdefault(rung.name, f"no learning rate worked: {reason}")
            else:
                for trial in trials[rung.name]:
                    trial.chosen = trial is best[0]
                if best[0].learning_rate in (min(grid), max(grid)):
                    rate = quantities.rate(best[0].learning_rate)
                    text = f"{rung.name}: the best learning rate, {rate}, is at the end of the grid; "
                    text += "one beyond it may be better (--learning-rates 5 tries more)"
                    self.runner.warn("ladder.rate_at_edge", text)
            self.runner.save()

    def _grid(self, rung: Rung) -> list[float]:
        return rate_grid(rung.config.train.learning_rate, self.plan.learning_rates)

    def _rounds(self) -> list[tuple[int, int | None]]:
        return halving_rounds(self.plan.learning_rates, self.ladder.work.steps if self.ladder.work else 1)

    def _trials(self, rung: Rung, rates: Sequence[float], steps: int | None) -> list[LadderEntry]:
        seed = self.plan.seeds[-1] + 1  # not compared: the best of several rates would be partly luck of its seed
        return [self.runner.entry(rung.name, "trial", seed, rate, steps) for rate in rates]

    def train(self) -> None:
        """Run every rung with every seed. Seeds are the outer loop, so that all rungs have a result early.

        With `until_decided`: one seed after the other, as long as a rung has an open question.
        """
        self._enter("training")
        ladder, plan = self.ladder, self.plan
        self.share_bases()
        self.base_scorers = {name == BASE_4BIT: None for name in ladder.base_runs}
        rungs = [rung.name for rung in plan.rungs]
        if not plan.until_decided:
            self._train_seeds(plan.seeds, rungs)
            return

        looks = {look.seeds: look for look in ladder.looks}  # looks of an earlier start are kept
        for number in range(1, len(plan.seeds) + 1):
            ladder.seeds = plan.seeds[: max(number, FIRST_LOOK)]
            self._train_seeds([plan.seeds[number - 1]], rungs)
            if number in looks:
                rungs = looks[number].rungs
            elif number >= FIRST_LOOK:
                runs = sum((entry.kind, entry.status) == ("run", "finished") for entry in ladder.entries)
                look = next_look(plan, number, runs)
                samples = aggregate(self.runner.dir, ladder, plan, look)
                if samples is not None:
                    decide_questions(ladder, samples, look, plan, self.runner.excluded)
                ladder.looks.append(look)
                self._update_verdict()
                rungs = look.rungs
                print(f"look after {runs} runs: {len(look.decisions)} decided; next seed: {rungs}", flush=True)
            if not rungs:
                return

    def _train_seeds(self, seeds: Sequence[int], rungs: Collection[str]) -> None:
        """Run these rungs with these seeds, and score each kind of base that has no score yet."""
        runs = []
        for seed in seeds:
            for rung in self.plan.rungs:
                if rung.name in rungs:
                    configured = rung.config.train.learning_rate
                    entry = self.runner.entry(rung.name, "run", seed, configured)
                    chosen = (e.learning_rate for e in self.ladder.entries if e.rung == rung.name and e.chosen)
                    entry.learning_rate = next(chosen, configured)
                    runs.append((rung, entry))
        for rung, entry in runs:
            if rung.name in self.runner.excluded:
                self.runner.drop(entry, self.runner.excluded[rung.name])
        self._train_runs(runs)

        # If the run that would have scored a kind of base failed, repeat a finished run that loads this base.
        unscored: dict[bool, PlannedRun] = {}
        for rung, entry in runs:
            quantized = method_spec(rung.method).quantizes_base
            if entry.status == "finished" and quantized not in self.base_scorers:
                unscored.setdefault(quantized, (rung, entry))
        for _, entry in unscored.values():
            entry.status = "planned"
        self._train_runs(list(unscored.values()))

    def _train_runs(self, runs: Sequence[PlannedRun]) -> None:
        for (rung, entry), result in self.runner.execute(runs, self._choose_config):
            quantized = method_spec(rung.method).quantizes_base
            if result is None and self.base_scorers.get(quantized) is entry:
                del self.base_scorers[quantized]
            if result is None and entry.status in NOT_RETRIED:
                self.runner.exclude(entry)
            self._update_verdict()

    def answer_items(self) -> None:
        """Let the rungs of extensions answer the test items. One that fails is reported and does not end the ladder."""
        if not self.plan.added:
            return
        self._enter("asking")
        ladder, folder, work = self.ladder, self.runner.dir, self.ladder.work
        entries = [entry for entry in ladder.entries if entry.kind == "run" and entry.run]
        finished = next((entry for entry in entries if entry.status == "finished"), None)
        if finished is None or work is None:
            return
        predictions = self.runner.run_of(finished).predictions_file
        runs = [folder.runs / run for run in (*(entry.run for entry in entries), *ladder.base_runs.values())]
        for rung, shots in with_examples(self.plan.added, self.plan.base_shots):
            with_file = (run for run in map(RunDir, runs) if run.few_shot_examples_file(shots).exists())
            try:
                examples = examples_of_base(next(with_file, RunDir(runs[0])), shots)
                config, stopping = self.plan.rungs[0].config, self.runner.stopping
                state = let_answer(folder, rung, config, predictions, work.metric, stopping, examples)
            except (UserError, RunFailed) as error:
                state = record_failure(folder, rung, error)
            if state.status == "failed":
                self.runner.warn("ladder.rung_failed", f"{rung.name} is not scored: {state.reason}")
            self._update_verdict()

    def export(self) -> None:
        """Export, check and score the artifacts of the finished runs, one after another.

        A failed export is reported and does not end the ladder; the same artifact of other seeds is skipped.
        """
        if not self.plan.ship:
            return
        self._enter("exporting")
        for name in self.plan.ship:
            failed = ""
            for seed in self.plan.seeds:
                self.runner.stopping.check()
                entry = self.runner.entry(name, "export", seed, 0.0)
                if failed:
                    entry.status, entry.reason = "skipped", failed
                else:
                    self._export(entry)
                    failed = entry.reason if entry.status == "failed" else ""
                self.runner.save()
                self._update_verdict()

    def _export(self, entry: LadderEntry) -> None:
        """Export one artifact. One that exists with scores for all test items is reused."""
        parts = artifact_of(entry.rung)
        assert parts is not None
        rung, artifact = parts
        keys = (rung, "run", entry.seed)
        source = next(e for e in self.ladder.entries if (e.rung, e.kind, e.seed) == keys)
        entry.learning_rate = source.learning_rate
        if source.status != "finished":
            entry.status, entry.reason = "skipped", f"{rung} has no finished run with seed {entry.seed}"
            return
        run = self.runner.run_of(source)
        entry.run = str((run.exports / artifact.folder).relative_to(self.runner.dir.runs))
        fidelity = scored_export(run, artifact)
        entry.reused = fidelity is not None and (entry.reused or entry.status != "finished")
        title, saved = f"{rung_title(entry.rung)}, seed {entry.seed}", 0.0

        def show_progress(text: str) -> None:
            nonlocal saved
            entry.progress = text
            if time.monotonic() - saved >= SAVE_SECONDS:
                saved = time.monotonic()
                self.runner.save()

        try:
            if fidelity is None:
                entry.status, entry.reason, entry.progress = "live", "", ""
                self.runner.save()
                print(f"[{time.strftime('%H:%M:%S')}] export {entry.rung} seed {entry.seed}: {entry.run}", flush=True)
                fidelity = export_artifact(run, artifact, self.plan.margin, self.runner.stopping, show_progress)
        except StopRequested:
            entry.status, entry.run = "planned", ""
            raise
        except (UserError, RunFailed) as error:
            entry.status = "failed"
            entry.reason = error.line if isinstance(error, UserError) else str(error)
            self.runner.warn("ladder.export_failed", f"{title}: {entry.reason}")
            return
        finally:
            entry.progress = ""
        entry.status, entry.reason, entry.seconds = "finished", "", fidelity.write_seconds
        for defect in fidelity.defects:
            self.runner.warn("ladder.artifact_defect", f"{title}, has a defect: {defect.text}")

    def analyze(self) -> None:
        self._enter("analyzing")
        ladder = self.ladder
        self._update_verdict()
        done = any((entry.kind, entry.status) == ("run", "finished") for entry in ladder.entries)
        ladder.status, ladder.stage = ("finished", "done") if done else ("failed", "done")
        reasons = "; ".join(f"{rung}: {reason}" for rung, reason in self.runner.excluded.items())
        ladder.reason = "" if done else f"no rung finished: {reasons}"
        self.runner.save()
        report.write(self.runner.dir, ladder)

    def _update_verdict(self) -> None:
        aggregate(self.runner.dir, self.ladder, self.plan)
        self.ladder.full_needs = memory_of_full(self.ladder, self.plan)
        if self.ladder.looks or not self.plan.until_decided:
            conclude(self.ladder)
        self.runner.save()

    def _enter(self, stage: Stage) -> None:
        self.runner.stopping.check()
        self.ladder.stage = stage
        self.runner.save()
        print(stage, flush=True)

    def _choose_config(self, rung: Rung, entry: LadderEntry) -> Config:
        """The configuration of a trial or run. The first run of each kind of base also scores it (`base_scorers`)."""
        configs = self._possible_configs(rung, entry)
        if entry.kind == "trial":
            return configs[0]
        without_base, with_base = configs
        scorer = self.base_scorers.setdefault(method_spec(rung.method).quantizes_base, entry)
        return with_base if scorer is entry else without_base

    def _possible_configs(self, rung: Rung, entry: LadderEntry) -> list[Config]:
        """The configuration of a trial, or the two of a run: without scores of the base, and with them."""
        values: dict[str, Any] = {"train.seed": entry.seed, "train.learning_rate": entry.learning_rate}
        if entry.kind == "trial":
            values |= {} if entry.steps is None else {"train.steps": entry.steps}
            return [with_settings(rung.config, values | {"evaluation.when": "never"})]
        both = values | {"evaluation.when": "both"}
        # One kind of base is also scored with examples in the prompt: the unquantized base if a rung loads it, else the
        # 4-bit base.
        rungs = [other for other in self.plan.rungs if other.name not in self.runner.excluded]
        only_quantized = all(method_spec(other.method).quantizes_base for other in rungs)
        if only_quantized or not method_spec(rung.method).quantizes_base:
            both["evaluation.base_shots"] = self.plan.base_shots
        return [with_settings(rung.config, values | {"evaluation.when": "after"}), with_settings(rung.config, both)]


def run_ladder(folder: LadderDir) -> tuple[Outcome, str]:
    """Start or resume the ladder; returns (status, reason).

    Raises OSError if its state cannot be written, UserError if its files are damaged.
    """
    plan, stopping = folder.plan(), StopRequest()
    stopping.listen()
    folder.reserve_end()
    runner = LadderRunner(folder, load_or_create(folder, plan), stopping, plan.fresh, plan.retime)
    for notice in plan.notices:
        runner.warn(notice.code, notice.text)
    runner.save()
    status, reason = run_to_outcome(LadderPipeline(runner, plan).run, runner.ladder, folder)
    if status != "finished":
        runner.ladder.status, runner.ladder.reason = status, reason
        runner.save()
    return runner.ladder.status, runner.ladder.reason


def load_or_create(folder: LadderDir, plan: LadderPlan) -> Ladder:
    ladder = folder.state() or Ladder(
        name=folder.name,
        preset=plan.preset,
        command=plan.command,
        created=plan.created,
        seeds=plan.seeds[:FIRST_LOOK] if plan.until_decided else plan.seeds,
        max_seeds=len(plan.seeds) if plan.until_decided else None,
        started_in=plan.started_in,
    )
    ladder.status, ladder.stage, ladder.reason, ladder.reason_code = "running", "planned", "", ""
    ladder.updated = time.time()
    return ladder


def run_to_outcome(work: Callable[[], None], state: State, folder: ComparisonDir) -> tuple[Outcome, str]:
    """Do the work; returns (status, reason) and records the error's code in the state."""
    try:
        work()
    except StopRequested as error:
        return "stopped", f"{str(error) or 'stopped by request'}; `ftbench resume {folder.argument}` resumes it"
    except UserError as error:
        state.reason_code = error.code
        return "failed", error.line
    except RunFailed as error:
        state.reason_code = error.code
        return "failed", str(error)
    except Exception as error:  # noqa: BLE001 - top level: the state records any error
        if is_no_space_error(error):
            state.reason_code = "disk.full"
            return "failed", f"disk full ({reason_of(error)}); free disk space, then `ftbench resume {folder.argument}`"
        if isinstance(error, OSError) and system_hint(error):
            refusal = system_refusal(error, str(folder.path))
            state.reason_code = refusal.code
            return "failed", f"{refusal.line}, then `ftbench resume {folder.argument}`"
        traceback.print_exc()
        return "failed", f"{error_text(error)}; the traceback is in {folder.log_file}"
    return state.status, state.reason
