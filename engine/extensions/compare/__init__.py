"""Results of anyone, compared item by item: runs, logs of other evaluation tools, rows in JSON and CSV."""
