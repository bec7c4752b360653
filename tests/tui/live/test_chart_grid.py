"""The chart grid: values of several runs at one step, a shared x axis, and answers up to the cursor."""

from __future__ import annotations

import time

import pytest
from made_runs import step

from engine.runs.run import events
from tui.charts import Series
from tui.live.curves import METRICS, ChartGrid, cursor_column, last_turn, sample_lines, step_of_column
from tui.live.run_state import MAX_SAMPLES, RunState

LOSS, MEMORY = METRICS[0], METRICS[4]


def state(name: str, steps: int, loss: float) -> RunState:
    run_state = RunState(f"20260101-000000-demo-lora-{name}-abcd")
    run_state.feed([events.Phase(name="training")])
    for number in range(1, steps + 1):
        run_state.feed([step(number, loss + 1 / number), events.Memory(rss=(600 + number) << 20, rss_peak=0)])
    return run_state


def sample(
    when: str, at: int | None, output: str, prompt: str = "q?<|im_end|>\n<|im_start|>assistant\n"
) -> events.Sample:
    return events.Sample(when=when, step=at, prompt=prompt, target="right", output=output, score=None)


def text(grid: ChartGrid, number: int) -> str:
    return str(grid.rows(METRICS[number], 60, 12)[0])


def test_a_value_is_read_at_the_nearest_step() -> None:
    series = Series()
    assert series.at(3) is None
    series.extend([(1, 10.0), (2, 20.0), (10, 30.0)])
    assert [series.at(x) for x in (0, 1, 2, 5, 7, 10, 99)] == [10.0, 10.0, 20.0, 20.0, 30.0, 30.0, 30.0]


def test_the_cursor_reads_every_run_at_the_same_step() -> None:
    grid = ChartGrid(state("lora", 100, 1.0), [state("full", 50, 2.0)])
    assert "1.01" in text(grid, 0) and "2.02" in text(grid, 0)
    at = ChartGrid(grid.state, grid.earlier, 10)
    assert "1.1" in text(at, 0) and "2.1" in text(at, 0)
    assert "610 MiB" in text(at, 4) and "610 MiB" in str(at.rows(MEMORY, 60, 12)[0])
    assert "step 10" in str(at.legend(80)) and "lora-abcd" in str(at.legend(80)) and "full-abcd" in str(at.legend(80))
    assert "latest" in str(grid.legend(80))
    beyond = text(ChartGrid(grid.state, grid.earlier, 51), 0)
    assert beyond.split()[1:] == ["1.02", "–"]  # the earlier run has 50 steps


def test_a_pane_of_one_row_has_the_values_only() -> None:
    grid = ChartGrid(state("lora", 100, 1.0), cursor=40)
    assert [str(row).split()[0] for row in grid.rows(LOSS, 60, 1)] == ["loss"]


def test_all_charts_have_the_same_axis_and_the_cursor_in_the_same_column() -> None:
    grid = ChartGrid(state("lora", 100, 1.0), [state("full", 50, 2.0)], 40)
    assert grid.span is not None and grid.span[1] >= 100
    columns = set()
    for metric in METRICS[:2]:
        rows = [str(row) for row in grid.rows(metric, 60, 12)]
        columns |= {row.index("│") for row in rows if "│" in row}
        assert rows[-1].split()[0] == "1"
    assert len(columns) == 1


def test_a_step_and_its_column_are_inverse() -> None:
    span = (1.0, 400.0)
    for column in range(53):
        assert cursor_column(step_of_column(column, span, 53), span, 53) == column


def test_answers_are_shown_up_to_the_cursor_without_the_template() -> None:
    samples = [sample("before", None, "base"), sample("during", 5, "half"), sample("during", 10, "whole")]
    shown = "\n".join(map(str, sample_lines(samples, None, 40, 10)))
    assert "q?" in shown and "im_end" not in shown and "expected  right" in shown
    assert "step 10   whole" in shown
    assert "whole" not in "\n".join(map(str, sample_lines(samples, 7, 40, 10)))
    assert "no answer yet" in str(sample_lines([], None, 80, 5)[0])
    hostile = "\n".join(map(str, sample_lines([sample("during", 1, "\x1b]52;c;aGk=\x07")], None, 80, 5)))
    assert "\x1b" not in hostile


def test_a_state_keeps_the_latest_answers_only() -> None:
    run_state = RunState()
    run_state.feed([sample("during", number, "x") for number in range(MAX_SAMPLES + 5)])
    assert len(run_state.samples) == MAX_SAMPLES and run_state.samples[-1].step == MAX_SAMPLES + 4


def test_memory_after_training_is_not_part_of_the_curve() -> None:
    run_state = state("lora", 5, 1.0)
    run_state.feed([events.Phase(name="evaluation"), events.Memory(rss=1 << 30, rss_peak=0)])
    assert run_state.memory_use.latest == 605 << 20


@pytest.mark.parametrize(
    "prompt",
    [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 6 x 7?<|im_end|>\n<|im_start|>assistant\n",
        "<|im_start|>user\nWhat is 6 x 7?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 6 x 7?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "<bos><start_of_turn>user\nWhat is 6 x 7?<end_of_turn>\n<start_of_turn>model\n",
        "<s>[INST] What is 6 x 7? [/INST]",
        "<|user|>\nWhat is 6 x 7?<|end|>\n<|assistant|>\n",
        "What is 6 x 7?",
    ],
)
def test_a_sample_shows_the_last_turn_of_its_prompt_without_the_template(prompt: str) -> None:
    shown = events.Sample(when="before", step=0, prompt=prompt, target="42", output="41", score=0.0)
    assert str(sample_lines([shown], None, 40, 5)[0]) == "What is 6 x 7?"


def test_the_last_turn_of_a_long_prompt_is_found_at_once() -> None:
    for text in ("word " * 20_000, "<|im_start|>" + "\n" * 20_000 + "x<", "<|im_start|>user\n" * 5_000):
        began = time.process_time()
        last_turn(text)
        assert time.process_time() - began < 1
