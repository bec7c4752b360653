"""Log runs to experiment trackers, in separate processes that read `events.jsonl`; no torch."""
