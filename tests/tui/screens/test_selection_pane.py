"""The selection on the bench: estimates of the methods, presets on number keys, what a selection changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvml_driver import Driver, nvml
from pilot import notes, play, sampled, screen_text, shown, wait_for
from textual.pilot import Pilot

from engine.config import preset_library
from engine.config.catalog import pulled_folder
from engine.hardware.cpu import usable_cpus
from engine.hardware.nvml import Nvml
from engine.memory.formula.memory_budget import local_budget, system_memory
from tui.app import Workbench
from tui.live.machine import GpuSample, MachineSample, MachineSampler, SampleRequest, WatchedProcess
from tui.screens.processes import DevicesScreen
from tui.selection import Selection
from tui.widgets.selection_pane import MethodList, PresetList

GIB = 1 << 30


def machine(total: int) -> MachineSample:
    """A machine with one GPU."""
    gpu = GpuSample(0, "NVIDIA A100-SXM4-80GB", total, 0, None)
    return MachineSample((gpu,), "", 64 * GIB, 8 * GIB)


def methods(app: Workbench) -> list[str]:
    pane = app.bench.query_one(MethodList)
    return [str(pane.get_option_at_index(number).prompt) for number in range(pane.option_count)]


async def look(app: Workbench, pilot: Pilot[str], sample: MachineSample) -> None:
    """Post a sample, so that no GPU is needed."""
    assert app.sampler is not None
    app.sampler.leave()
    app.sampler.join()
    await pilot.pause()
    app.bench.post_message(sampled(sample))
    await pilot.pause()


def test_each_method_shows_its_memory_before_the_model_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look(app, pilot, machine(79 * GIB))
        app.bench.take_preset("80gb-lora")
        await pilot.pause()
        assert not pulled_folder("olmo-3-7b").exists()
        qlora, lora, full = methods(app)
        assert all(" fits" in method for method in (qlora, lora, full))
        assert "▸LoRA" in lora and "▸" not in qlora + full
        listed = app.bench.query_one(PresetList)
        assert [str(option.prompt) for option in listed.options if "▸" in str(option.prompt)] == [
            "▸5 LoRA · OLMo 3 7B, 80 GB"
        ]
        chosen = app.bench.selection_pane.effective
        assert chosen
        length = chosen.config.train.max_length
        assert str(app.bench.query_one(MethodList).border_subtitle).endswith(f"%, {length}-token rows")
        monkeypatch.setattr("tui.live.machine.Nvml", lambda: nvml(processes={70001: 70 * GIB}))
        # 70 GiB are in use: by another process, then by the watched run, whose memory is free for the next run.
        for gpu_pid, text in ((None, "does not fit"), (70001, " fits")):
            app.bench.post_message(MachineSampler().sample(SampleRequest(WatchedProcess(None, gpu_pid))))
            await pilot.pause()
            assert text in methods(app)[1]
        await look(app, pilot, machine(12 * GIB))
        assert "does not fit" in methods(app)[1]

    play(tmp_path, story)


def test_a_model_that_is_not_known_yet_says_so(tmp_path: Path, here: Path) -> None:
    (here / "m.gguf").write_bytes(b"GGUF")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        from tui.selection import Selection

        app.bench.selection_pane.select(Selection("demo-lora", {"model.id": str(here / "m.gguf")}))
        await pilot.pause()
        assert all("unknown until" in text for text in methods(app))

    play(tmp_path, story)


def test_a_high_list_says_what_each_method_trains(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2")
        await wait_for(pilot, lambda: "adapters" in methods(app)[1] and "fast" in methods(app)[1])

    play(tmp_path, story, (120, 36))


def test_the_description_of_a_preset_and_what_it_changed_stay_shown(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        assert "frozen base, rank 16" in shown(app, "about")
        await pilot.press("1")
        about = shown(app, "about")
        assert "from LoRA · demo:" in about and "method lora → qlora" in about and "more (e)" not in about
        bench = app.bench.selection_pane
        bench.select(bench.selection.with_preset("smollm2-qlora"))
        await pilot.pause()
        assert "from QLoRA · demo:" in shown(app, "about") and "more (e)" in shown(app, "about")
        bench.select(bench.selection.with_setting("train.batch", 4))
        await pilot.pause()
        assert "· SmolLM2-135M: train.batch" in shown(app, "about")
        bench.select(bench.selection.with_setting("train.steps", 4))
        await pilot.pause()
        assert "previous selection: " in shown(app, "about") and ": train.steps" in shown(app, "about")
        assert not notes(app)

    play(tmp_path, story, (160, 45))


def test_the_selected_preset_stays_visible_when_the_list_shrinks(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("9")
        listed = app.bench.query_one(PresetList)
        await pilot.resize_terminal(80, 24)
        app.bench.query_one("#status").styles.height = 3

        def is_visible() -> bool:
            first, cursor = listed.scroll_offset.y, listed.highlighted
            return cursor is not None and first <= cursor < first + listed.content_size.height

        await wait_for(pilot, lambda: listed.content_size.height < listed.option_count and is_visible())

    play(tmp_path, story, (120, 36))


def test_an_invalid_preset_is_listed_and_the_others_work(tmp_path: Path) -> None:
    folder = preset_library.user_folder()
    folder.mkdir(parents=True)
    (folder / "demo-lora.toml").write_text("[train]\nbatch = 'many'\n")
    (folder / "\x1b[31m[red].toml").write_text("slot = 1\nnonsense")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        pane = app.bench.selection_pane.query_one("#preset", PresetList)
        await wait_for(pilot, lambda: app.bench.selection_pane.effective)
        prompts = [str(option.prompt) for option in pane.options]
        assert sum("invalid" in prompt for prompt in prompts) == 2
        assert not any("\x1b" in prompt for prompt in prompts)
        assert app.bench.selection_pane.effective is not None  # started with another
        pane.focus()
        await pilot.press("g", "j", "j", "k")
        assert pane.highlighted == 1  # they move in every list
        await pilot.press("3")
        assert "Full · demo" in shown(app, "head")
        await pilot.press("1")
        assert "QLoRA · demo" in shown(app, "head")

    play(tmp_path, story)


def test_the_device_key_selects_each_gpu_and_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("tui.live.machine.Nvml", nvml)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        chosen, memory, sampler = [], [], MachineSampler()
        sampler._find("MIG-777")  # as if NVML listed it
        assert app.sampler is not None
        app.sampler.leave()
        app.sampler.join()
        await pilot.pause()

        async def look() -> None:
            app.bench.post_message(sampler.sample(app.bench.machine.request()))
            await pilot.pause()

        await look()
        halves = len(usable_cpus()) > 1
        for down in range(6 + halves):
            app.bench.action_devices()
            await pilot.pause()
            await pilot.press("home", *["down"] * down, "enter")
            await look()
            assert app.bench.selection_pane.budget is not None
            chosen.append(app.bench.selection_pane.device)
            memory.append(app.bench.selection_pane.budget.total)
        assert chosen == ["auto", "0", "1", "MIG-777", "all", "cpu", *["cpu:2"] * halves]
        assert memory[:5] == [80 * GIB, 22 * GIB, 80 * GIB, 10 * GIB, 22 * GIB]
        assert memory[5:] == [local_budget(device=device).total for device in chosen[5:]]
        app.bench.action_devices()
        await pilot.pause()
        await pilot.press("home", "down", "enter", "2")  # another preset keeps the device
        assert app.bench.selection_pane.device == "0"

    play(tmp_path, story)


def test_a_launch_plans_with_the_memory_limit_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ftbench plan` does."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(system_memory, "__defaults__", (tmp_path,))
    (tmp_path / "memory.max").write_text(f"{3 * GIB}\n")
    (tmp_path / "memory.current").write_text(f"{GIB}\n")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        budget = app.bench.machine.launch_context().budget
        assert budget is not None
        assert budget.total == local_budget().total == 3 * GIB

    play(tmp_path / "runs", story)


def test_the_number_keys_hold_what_fits_the_machine(tmp_path: Path) -> None:
    """On 80 GiB not the demos and SmolLM2 only; on a CPU no model that would take days; the user's own slot stays."""
    folder = preset_library.user_folder()
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text('slot = 5\ntitle = "mine"\nmethod = "lora"\n')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look(app, pilot, machine(79 * GIB))
        slots = {entry.slot: entry.name for entry in app.bench.selection_pane.listed if entry.slot}
        assert sorted(slots) == list(range(1, 10)) and slots[5] == "mine"
        assert [slots[number] for number in (1, 2, 3)] == ["demo-qlora", "demo-lora", "demo-full"]
        assert not any("smollm2" in name for name in slots.values())
        large = [slots[number] for number in (4, 6, 7, 8, 9)]
        assert large[:3] == ["80gb-qlora", "80gb-lora", "80gb-full"] and all("gb" in name for name in large), large
        shown = [str(option.prompt) for option in app.bench.selection_pane.query_one(PresetList).options]
        assert len(set(shown)) == len(shown)  # also where the end of a title is all that differs
        await pilot.press("5")
        assert app.bench.selection_pane.selection.name == "mine"
        await look(app, pilot, MachineSample((), "none", 24 * GIB, 2 * GIB))
        slots = {entry.slot: entry.name for entry in app.bench.selection_pane.listed if entry.slot}
        assert {"smollm2-qlora", "smollm2-lora", "smollm2-full"} <= set(slots.values())

    play(tmp_path, story)


class EightGpus(Driver):
    """NVML with eight GPUs of 80 GiB, some in use."""

    in_use = (71, 12, 0, 71, 75, 0, 0, 9)

    def nvmlDeviceGetCount(self) -> int:
        return len(self.in_use)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return f"GPU-{handle}"

    def nvmlDeviceGetCudaComputeCapability(self, handle: int) -> tuple[int, int]:
        return 8, 0

    def nvmlDeviceGetName(self, handle: int) -> str:
        return "NVIDIA A100-SXM4-80GB"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(total=80 * GIB, used=self.in_use[handle] * GIB)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=1, usedGpuMemory=None)] if self.in_use[handle] else []


def test_the_free_gpu_is_used_and_another_one_takes_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is a free GPU, which the launch screen says; `D` goes to the next ones on which the run fits."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    library = Nvml()
    library._library, library.why = EightGpus(), ""
    monkeypatch.setattr("tui.live.machine.Nvml", lambda: library)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        machine, pane = app.bench.machine, app.bench.selection_pane
        await wait_for(pilot, lambda: machine.sample and pane.budget)
        pane.select(Selection("80gb-lora"))
        await wait_for(pilot, lambda: machine.next_gpu == "2")
        await pilot.press("n")
        await wait_for(pilot, lambda: "GPU 2 (auto: free)" in screen_text(app))
        await pilot.press("escape")
        for expected in ("5", "6", "7", "1", "2", "5"):
            await pilot.press("D")
            assert app.screen is app.bench and pane.device == expected
            await wait_for(pilot, lambda expected=expected: machine.next_gpu == expected)
        pane.select(pane.selection.with_setting("hardware.device", "0"))
        await wait_for(pilot, lambda: machine.next_gpu == "0")
        await pilot.press("n")
        await wait_for(pilot, lambda: "use GPU 1 (68.0 GiB free)" in " ".join(screen_text(app).split()))

    play(tmp_path / "runs", story, (160, 45))


def test_without_another_gpu_that_holds_the_run_the_devices_are_listed(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await look(app, pilot, machine(80 * GIB))
        await pilot.press("D")
        assert isinstance(app.screen, DevicesScreen)

    play(tmp_path / "runs", story)
