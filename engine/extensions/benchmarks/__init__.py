"""Scores models on benchmarks of lm-evaluation-harness, an optional dependency, with scores by item.

`ftbench[benchmarks]` installs lm-eval (0.4.13, MIT license) and 30 packages that the other extras do not need, under
MIT, BSD, Apache and PSF licenses: 318 MB on disk, 200 MB of them SciPy and scikit-learn, 78 MB the task definitions.
It is imported only by workers whose configuration has benchmarks: 0.5 CPU seconds after torch and transformers, and 5
more to read the 14,683 names of its tasks, which a task file does not need (two busy cores).

- `task_file`: reads a task file without running code from it.
- `tasks`: imports the library without its logs, telemetry and unsafe templates, and loads tasks and their items.
- `scoring`: the interface of the library to a model that is in memory already, and the scores of one benchmark.
"""
