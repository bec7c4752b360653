"""`result.json` is built from the events, also by readers and for runs of earlier versions."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from engine.config.preset_library import resolve_preset
from engine.runs.run import events, run_dir
from engine.runs.run.event_log import EventLog
from engine.runs.run.folder import EndRecord
from engine.runs.run.result import Predicted, Result, TrainingLoad
from engine.runs.run.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {"train.batch": 4}))


def hello(resumed: bool = False) -> events.Hello:
    return events.Hello(pid=1, host="h", version="0", resumed=resumed)


def plan(start: int, **more: object) -> events.Plan:
    return events.Plan(
        steps=8, start_step=start, batch=4, micro_batch=2, packing="packed", gradient_checkpointing=False, **more
    )


def step(number: int, tokens: int = 10, seconds: float = 0.5) -> events.Step:
    return events.Step(
        step=number, steps=8, epoch=0, loss=1.0, learning_rate=0, grad_norm=1, tokens=tokens, answer_tokens=1,
        tokens_per_second=1, seconds=seconds,
    )  # fmt: skip


def validation(step: int, loss: float) -> events.Eval:
    return events.Eval(when="during", split="validation", step=step, rows=4, loss=loss)


def result_of(run: RunDir, *said: events.Event) -> Result:
    log = EventLog(run.events_file)
    for event in said:
        log.write(event)
    result = run_dir.result_from_events(run, run_dir.read_frozen(run))
    assert result is not None
    return result


def test_steps_after_the_checkpoint_of_a_resume_count_once(run: RunDir) -> None:
    result = result_of(
        run,
        *(hello(), plan(0), *map(step, range(1, 5)), validation(2, 3.0), validation(4, 2.0)),
        *(hello(True), plan(2), step(3, tokens=11), events.End(status="stopped", reason="asked")),
    )
    assert (result.steps, result.tokens, result.step_seconds) == (3, 31, 1.5)
    assert result.validation_loss == [(2, 3.0)]
    assert (result.status, result.reason, result.last_checkpoint) == ("stopped", "asked", "checkpoints/step-2")


def test_validations_that_select_the_weights_are_part_of_the_training_time(run: RunDir) -> None:
    timed = [replace(validation(2, 3.0), seconds=4.0), replace(validation(4, 2.0), seconds=2.0)]
    steps = [hello(), plan(0), *map(step, range(1, 5)), *timed]
    resumed = [hello(True), plan(2), step(3), step(4), timed[1]]
    chosen = events.Selected(step=2, loss=3.0, steps=4, early=False)
    result = result_of(run, *steps, *resumed, chosen, events.End(status="finished", reason=""))
    assert (result.selected_step, result.validation_seconds) == (2, 6.0)
    assert result.training_seconds == result.step_seconds + 6.0
    again = result_of(run, hello(True), plan(2), events.End(status="stopped", reason=""))
    assert again.selected_step is None and again.training_seconds == again.step_seconds


@pytest.mark.parametrize(("killed", "cpu_seconds"), [(False, 18.0), (True, 9.0)])
def test_a_load_without_that_of_a_killed_worker_is_incomplete(killed: bool, cpu_seconds: float, run: RunDir) -> None:
    load = events.Load(training=TrainingLoad(seconds=10.0, cpus=1, cpu_seconds=9.0))
    first = [hello(), plan(0), step(1), *([] if killed else [load])]
    result = result_of(run, *first, hello(True), plan(1), step(2), load, events.End(status="finished", reason=""))
    assert result.load and (result.load.complete, result.load.cpu_seconds) == (not killed, cpu_seconds)


def test_a_result_needs_the_end_of_the_latest_worker(run: RunDir) -> None:
    result_of(run, hello(), events.End(status="stopped", reason=""))
    EventLog(run.events_file).write(hello(True))
    frozen = run_dir.read_frozen(run)
    assert run_dir.result_from_events(run, frozen) is None
    assert run_dir.result_from_events(run, frozen, EndRecord(status="failed", reason="why", t=1.0)).reason == "why"


def test_the_prediction_for_all_steps_and_the_peak_of_all_workers_are_kept(run: RunDir) -> None:
    def memory(peak: int) -> events.Memory:
        return events.Memory(rss=1, rss_peak=peak, training=True)

    model = events.ModelLoaded(
        id="m", architecture="a", parameters=1, trainable=1, dtype="d", device="c", attention="a", optimizer="o",
        fingerprint="f", resident_before=100,
    )  # fmt: skip
    whole, rest = Predicted(tier="formula", training=7), Predicted(tier="formula", training=5)
    probes = [Predicted(tier="probe", training=6), Predicted(tier="probe", training=4)]
    result = result_of(
        run,
        *(hello(), model, plan(0, predictions=[whole]), plan(0, predictions=[whole, probes[0]]), memory(900)),
        *(hello(True), model, plan(4, predictions=[rest]), plan(4, predictions=[rest, probes[1]]), memory(300)),
        events.End(status="finished", reason=""),
    )
    assert result.predicted == [whole, probes[0]]
    assert (result.peak.rss_training, result.peak_training_bytes) == (900, 800)


def test_durations_do_not_depend_on_the_system_clock(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1e9, 1e9 + 1, 1e9 + 2_592_000, 1e9 - 2_592_000])
    monkeypatch.setattr(time, "time", lambda: next(clock))
    log = EventLog(run.events_file)
    for event in (hello(), events.Phase(name="training"), step(1), events.End(status="finished", reason="")):
        log.write(event)
    monkeypatch.undo()
    result = run_dir.result_from_events(run, run_dir.read_frozen(run))
    assert result is not None and result.active_seconds < 5


def test_damaged_lines_are_counted_and_events_of_a_later_version_are_not(run: RunDir) -> None:
    with run.events_file.open("wb") as file:
        file.write(msgspec.json.encode(hello()) + b'\n{"type":"of a later version"}\n\x00\x00\n{"type":"step"}\nhalf')
    result = result_of(run, events.End(status="finished", reason=""))
    assert [text for text in result.warnings if "3 damaged lines" in text] == result.warnings
    assert result.warning_codes == ["run.events_damaged"]
    run.events_file.unlink()
    warned = events.Warning(code="gpu.shared", text="another process uses the GPU")
    result = result_of(run, hello(), warned, warned, events.End(status="finished", reason=""))
    assert (result.warnings, result.warning_codes) == ([warned.text], [warned.code])


@pytest.mark.parametrize("number", [b"-1", b"9223372036854775808", b"9" * 400, b"1e300", b"0.5"])
def test_an_impossible_step_number_counts_as_damage(number: bytes, run: RunDir) -> None:
    line = msgspec.json.encode(step(1)).replace(b'"step":1,', b'"step":' + number + b",")
    run.events_file.write_bytes(msgspec.json.encode(hello()) + b"\n" + line + b"\n")
    result = result_of(run, step(2), events.End(status="finished", reason=""))
    assert (result.steps, result.tokens) == (2, 10) and "1 damaged line" in result.warnings[0]


def test_a_run_killed_before_its_result_was_written_has_a_result(run: RunDir) -> None:
    result_of(run, hello(), plan(0), step(1), events.End(status="failed", reason="for a reason"))
    assert not run.result_file.exists()
    result = run.result()
    assert result is not None and (result.status, result.reason, result.tokens) == ("failed", "for a reason", 10)
    assert run.state() == "failed"
