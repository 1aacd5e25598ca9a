"""`python -m scheduler_jobs.cli`: the same as `imagemill`."""

from scheduler_jobs.cli import main

main()
