"""The extensions that ship with ftbench: what each adds to the core, by hook. Nothing is imported before it is used.

An extension is a folder here, and one in `tui/extensions` for its commands and screens. It may import the core; the
core imports none (a contract of import-linter), and finds them by `engine.config.hooks`, as it finds other packages.
"""

from __future__ import annotations

SHIPPED: dict[str, dict[str, tuple[str, str]]] = {
    "ftbench.settings": {
        "track": ("engine.extensions.trackers.settings:Track", ""),
        "evaluation": ("engine.extensions.benchmarks.settings:extend", ""),
    },
    "ftbench.tasks": {"benchmarks": ("engine.extensions.benchmarks.hooks", "")},
    "ftbench.commands": {
        "judge": (
            "tui.extensions.judge.command:judge",
            "Let a model compare the answers of rungs, in both orders.",
        ),
        "rate": ("tui.extensions.judge.command:rate", "Compare the answers of two rungs without their names."),
        "check": (
            "tui.extensions.server_check.command:check",
            "Check which model a server serves: the tuned or the base one.",
        ),
        "compare": (
            "tui.extensions.compare.command:compare",
            "Compare results of runs and of other tools, item by item.",
        ),
        "doctor": (
            "tui.extensions.doctor.command:doctor",
            "Check machine, libraries, disk, and a step of each method.",
        ),
        "presets import": (
            "tui.extensions.preset_import.command:import_file",
            "Create a preset from another tool's configuration; says what was taken, changed and left out.",
        ),
        "try": (
            "tui.extensions.chat.command:try_runs",
            "Answer prompts with base and tuned models, side by side.",
        ),
        "track": ("tui.extensions.trackers.command:track", "Log a run, or a ladder's runs, to experiment trackers."),
    },
    "ftbench.options": {
        "export push": ("tui.extensions.push.options:push", ""),
        "ladder vary": ("tui.extensions.sweeps.options:vary", ""),
    },
    "ftbench.comparisons": {"sweep": ("engine.extensions.sweeps.sweep_dir:SweepDir", "")},
    "ftbench.comparison_views": {"sweep": ("tui.extensions.sweeps.view", "")},
    "ftbench.requests": {
        "compare": ("engine.extensions.compare.comparing:compare", ""),
        "judge.plan": ("engine.extensions.judge.requests:judge_plan", ""),
        "rating.summary": ("engine.extensions.judge.requests:rating_summary", ""),
        "sweep.report": ("engine.extensions.sweeps.requests:sweep_report", ""),
        "push": ("engine.extensions.push.requests:push", ""),
        "push.check": ("engine.extensions.push.requests:push_check", ""),
        "server.check": ("engine.extensions.server_check.requests:server_check", ""),
        "doctor": ("engine.extensions.doctor.requests:doctor", ""),
        "doctor.paging": ("engine.extensions.doctor.requests:check_paging", ""),
        "doctor.train": ("engine.extensions.doctor.requests:train_method", ""),
    },
    "ftbench.exporters": {"gguf": ("engine.extensions.gguf.gguf_format:FORMAT", "")},
    "ftbench.executors": {"slurm": ("engine.extensions.slurm.slurm", "")},
    "ftbench.screens": {
        "rate": ("tui.extensions.judge.keys:KEYS", ""),
        "try": ("tui.extensions.chat.keys:KEYS", ""),
    },
    "ftbench.reports": {"judge": ("engine.extensions.judge.ladder_report", "")},
    "ftbench.schemas": {
        "server-check": ("engine.extensions.server_check.server_check:ServerCheck", "output of check --json"),
        "comparison": (
            "engine.extensions.compare.comparison:ResultComparison",
            "output of compare --json",
        ),
        "judgment": (
            "engine.extensions.judge.preferences:Judgment",
            "judgment.json of a judge, and output of judge --json",
        ),
        "ratings": (
            "engine.extensions.judge.preferences:RatingSummary",
            "summary.json of people's ratings, and output of rate --json",
        ),
    },
    "ftbench.rungs": {"served": ("engine.extensions.served.rungs:KIND", "")},
    "ftbench.runs": {
        "trackers": ("engine.extensions.trackers.trackers", ""),
        "benchmarks": ("engine.extensions.benchmarks.hooks", ""),
    },
}
"""Hook -> name -> (`module:attribute`, help of a command or title of a schema)."""
