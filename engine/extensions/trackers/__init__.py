"""Log runs to experiment trackers, in separate processes that read `events.jsonl`; no torch.

Not by `report_to`, whose callbacks log inside the worker: there an error or a hang of a tracker's library would be the
run's, and its key for the network would be in the environment of the process that loads the user's model. They get no
scores, peaks or energy, and nothing of a finished run (`ftbench track RUN`). A process that fails here, or is killed,
continues from the log.
"""
