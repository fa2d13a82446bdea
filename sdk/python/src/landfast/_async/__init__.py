"""The client of tasks."""
