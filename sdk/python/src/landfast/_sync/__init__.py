"""The client of threads: made from the client of tasks by `scripts/unasync.py`."""
