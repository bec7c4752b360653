"""The requests that the RPC server answers: data, plans, launches, reports, artifacts, training.

Subcommands, the bench, ladders and exports ask them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from engine.config import schema
from engine.config.errors import UserError
from engine.config.hooks import hooks
from engine.hardware.devices import select_device
from engine.methods.library_imports import import_libraries
from engine.runs.run.export_formats import kinds_with_tools

if TYPE_CHECKING:  # for annotations only: each handler imports what it needs
    from engine.data.check import Preflight

Progress = Callable[..., None]
"""Called with a description and, for countable work, the number done and the total."""

# Each handler imports what it needs: a request without torch must not pay seconds for importing it.


def data_check(arguments: dict[str, Any], progress: Progress) -> Any:
    """The report on a dataset as a run would prepare it; `refused` is the error that would stop the run."""
    from engine.data.check import check
    from engine.methods.model_source import load_tokenizer

    data, model = _sections(arguments)
    progress(f"loading the tokenizer of {model.id}")
    return check(data, arguments["max_length"], load_tokenizer(model), progress, _preflight(arguments))


def _preflight(arguments: dict[str, Any]) -> Preflight:
    """The checks that a run applies to prepared rows before it loads weights."""
    from engine.evaluation.preflight import check_prepared

    model = msgspec.convert(arguments["model"], schema.Model)
    evaluation = cast(
        schema.Evaluation, msgspec.convert(arguments.get("evaluation", {}), schema.SECTIONS["evaluation"])
    )
    return partial(check_prepared, model, arguments["max_length"], evaluation)


def data_show(arguments: dict[str, Any], progress: Progress) -> Any:
    """Tokenized samples starting at row `start`, with at most `most` tokens each."""
    from engine.data.check import show
    from engine.methods.model_source import load_tokenizer

    data, model = _sections(arguments)
    start, most = arguments.get("start", 0), arguments.get("most")
    progress(f"reading {arguments['split']} rows")
    tokenizer, rows, split = load_tokenizer(model), arguments["rows"], arguments["split"]
    return show(data, arguments["max_length"], tokenizer, rows, split, start, most, progress)


def _use_device(config: schema.Config) -> None:
    """Use the configuration's device; that of a batch job is in another machine."""
    if config.executor.name == "local":
        select_device(config.hardware.device).apply()


def launch_details(arguments: dict[str, Any], progress: Progress) -> Any:
    """What needs torch to be known before a launch of some configurations: for each its use of the `weights` (null if
    unknown) or why it would be `refused`; what computing the rows' common prefixes once saves in the first, one
    sentence, "" if nothing or for large data.
    """
    os.nice(10)
    configs = msgspec.convert(arguments["configs"], list[schema.Config])
    config = configs[0]
    _use_device(config)
    import_libraries()
    from engine.memory.dry_run.plan import read_rows
    from engine.methods.machine import this_machine
    from engine.methods.model_source import config_of
    from engine.runs.run.usage import describe_sharing
    from engine.worker.checks import account_before_loading

    machine, model_config = this_machine(), config_of(config.model)
    details: dict[str, Any] = {"sharing": "", "weights": []}
    for method_config in configs:
        account, refused = None, ""
        try:
            account = account_before_loading(method_config, model_config, machine)
        except UserError as error:
            refused = f"{error.line}; {error.hint}"
        details["weights"].append({"account": msgspec.to_builtins(account), "refused": refused})
    rows = read_rows(config, model_config, machine, given=False)
    if not isinstance(rows, str):
        whole = rows.whole
        details["sharing"] = describe_sharing(whole.shared_prefix, whole.shared_rows, whole.token_ratio)
    return details


def data_preview(arguments: dict[str, Any], progress: Progress) -> Any:
    """First rows and format of a dataset, without a model. Runs at low priority so that it does not slow a run."""
    os.nice(10)
    from engine.data.detection import preview

    return preview(msgspec.convert(arguments["data"], schema.Data))


def data_inspect(arguments: dict[str, Any], progress: Progress) -> Any:
    """Report, samples and lengths of a dataset, prepared once."""
    from engine.data.check import inspect
    from engine.methods.model_source import load_tokenizer

    data, model = _sections(arguments)
    progress(f"loading the tokenizer of {model.id}")
    shown = arguments["rows"], arguments["most"]
    return inspect(data, arguments["max_length"], load_tokenizer(model), *shown, progress, _preflight(arguments))


def ladder_workload(arguments: dict[str, Any], progress: Progress) -> Any:
    config = msgspec.convert(arguments["config"], schema.Config)
    _use_device(config)
    import_libraries()
    from engine.worker.planning import describe_workload

    return describe_workload(config)


def ladder_report(arguments: dict[str, Any], progress: Progress) -> Any:
    """Write the HTML and Markdown report of a ladder from its directories."""
    from engine.ladder import report
    from engine.runs.ladder.ladder_dir import LadderDir

    return write_report(LadderDir(Path(arguments["path"])), report.write)


def write_report(folder: Any, write: Callable[[Any, Any], object]) -> dict[str, str]:
    """Write the report of a ladder, or of several, from its state. Raises UserError if it has none."""
    kind, state = folder.KIND, folder.state()
    if state is None:
        hint = "start or resume it first"
        raise UserError(f"{kind} not started", str(folder.path), hint, code=f"{kind}.not_started")
    folder.check_files()
    write(folder, state)
    return {"page": str(folder.page), "markdown": str(folder.markdown)}


def ladder_items(arguments: dict[str, Any], progress: Progress) -> Any:
    """The conversations of test items as a rung that is not trained gets them. Raises UserError if the data changed."""
    from engine.data.items import conversations_of

    config = msgspec.convert(arguments["config"], schema.Config)
    conversations = conversations_of(config.data, arguments["lines"], arguments["examples"])
    return [{"messages": messages, "tools": tools} for messages, tools in conversations]


def score_answers(arguments: dict[str, Any], progress: Progress) -> Any:
    """The answers of such a rung with their tool calls, and their scores against the best of their references."""
    from engine.evaluation.metrics import best_score, is_formatted
    from engine.evaluation.tool_calls import written_calls

    metric, tags = arguments["metric"], arguments["tags"]
    pairs = [
        (written_calls(output, calls, references), references)
        for output, calls, references in zip(
            *(arguments[name] for name in ("outputs", "calls", "references")), strict=True
        )
    ]
    return [
        {
            "output": output,
            "scores": best_score(metric, output, references, tags),
            "formatted": is_formatted(metric, output),
        }
        for output, references in pairs
    ]


def plan(arguments: dict[str, Any], progress: Progress) -> Any:
    """Predicted memory, time and cost of each method, and changes that make it fit (`PlanQuery` -> `MemoryPlan`)."""
    from engine.memory.formula.method_plan import PlanQuery

    query = msgspec.convert(arguments, PlanQuery)
    if query.budget.source != "listed":
        select_device(query.configs[0].hardware.device).apply()
    import_libraries()
    from engine.memory.dry_run.plan import plan_methods

    return msgspec.to_builtins(plan_methods(query, progress))


def pull(arguments: dict[str, Any], progress: Progress) -> Any:
    """Download a model of the catalog or the Hub, or the tools for a kind of exports."""
    if arguments["name"] in kinds_with_tools():
        from engine.export.format_modules import format_module

        return {"folder": str(format_module(arguments["name"]).pull_tools(progress))}
    from engine.methods.pull import pull

    return pull(arguments["name"], progress)


def _sections(arguments: dict[str, Any]) -> tuple[schema.Data, schema.Model]:
    return msgspec.convert(arguments["data"], schema.Data), msgspec.convert(arguments["model"], schema.Model)


def export(arguments: dict[str, Any], progress: Progress) -> Any:
    """Write an artifact of a finished run and check it: its folder and its `Fidelity`."""
    from engine.export.request import ExportRequest, refuse_request
    from engine.runs.queue import locks
    from engine.runs.queue.device_queue import EXPORT, wait_for_device
    from engine.runs.run.run_dir import RunDir

    run, out = Path(arguments["run"]), arguments["out"]
    request = ExportRequest(
        RunDir(run),
        arguments["kind"],
        arguments["type"],
        Path(out) if out else None,
        arguments["margin"],
        arguments["overwrite"],
    )
    if arguments["wait"]:
        locks.lock_folder()  # refused first: without it no place in the queue is safe
    refuse_request(request)  # before the device is waited for
    device = select_device()
    device.apply()
    if arguments["wait"]:
        wait_for_device([device], run / EXPORT, lambda note: progress(f"waiting: {note}"))
    progress("loading libraries")
    import_libraries()
    from engine.export.exporter import export

    folder, fidelity = export(request, progress)
    return {"folder": str(folder), "fidelity": msgspec.to_builtins(fidelity)}


def export_tools(arguments: dict[str, Any], progress: Progress) -> Any:
    """Refuse if the tools for a kind of exports are missing."""
    from engine.export.format_modules import format_module

    return {"folder": str(format_module(arguments["kind"]).require_tools())}


def export_check(arguments: dict[str, Any], progress: Progress) -> Any:
    """Check one artifact of an export (`CheckJob` -> `Checked`)."""
    import_libraries()
    from engine.export.artifact_check import CheckJob, check

    return msgspec.to_builtins(check(msgspec.convert(arguments, CheckJob), progress))


def gain(arguments: dict[str, Any], progress: Progress) -> Any:
    """The gain of a run over its base model or another run (`Gain`)."""
    from engine.export.comparison import gain_of_run
    from engine.runs.run.run_dir import RunDir

    against = arguments["against"]
    other, start = RunDir(Path(against)) if against else None, arguments.get("start", False)
    difference = gain_of_run(RunDir(Path(arguments["run"])), other, arguments["metric"], start)
    return msgspec.to_builtins(difference)


REQUESTS: dict[str, Callable[[dict[str, Any], Progress], Any]] = {
    "data.check": data_check,
    "launch.details": launch_details,
    "data.show": data_show,
    "data.preview": data_preview,
    "data.inspect": data_inspect,
    "ladder.workload": ladder_workload,
    "ladder.report": ladder_report,
    "ladder.items": ladder_items,
    "ladder.score_answers": score_answers,
    "plan": plan,
    "pull": pull,
    "export": export,
    "export.check": export_check,
    "export.tools": export_tools,
    "gain": gain,
}
"""Those of the core; `handler` also knows those of extensions."""


def handler(question: str) -> Callable[[dict[str, Any], Progress], Any]:
    """What answers a request. Raises KeyError for an unknown one, UserError if an extension cannot be imported."""
    if question in REQUESTS:
        return REQUESTS[question]
    return cast(Callable[[dict[str, Any], Progress], Any], hooks("ftbench.requests")[question].load())
