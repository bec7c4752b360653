"""What `record.py` records: runs, a ladder, and what commands print."""
