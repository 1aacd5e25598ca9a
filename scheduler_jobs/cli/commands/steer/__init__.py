"""Commands that change a job: its turn, its labels, whether it is there."""
