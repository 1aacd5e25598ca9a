"""`python -m imagemill`: the command `imagemill`."""

from imagemill.scheduler_jobs.cli import main

if __name__ == "__main__":
    main()
