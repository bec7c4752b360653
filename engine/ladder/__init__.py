"""Ladders: one run per method and seed, their statistics, the verdict and the report.

`pipeline` starts the runs, `results` reads them, `aggregate` builds rows and comparisons, `decisions` decides,
`sentences` and `recommendation` write the verdict, `report` the report. Imports no torch.
"""
