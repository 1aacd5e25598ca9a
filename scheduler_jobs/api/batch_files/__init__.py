"""The two files of a batch: its lines are read, and its results written."""
