"""Run and ladder directories, events, results, the device queue, and starting a worker. Imports no torch."""
