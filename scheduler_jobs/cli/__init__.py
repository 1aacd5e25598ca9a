"""The command line. `commands/` has the commands by subject, `command_table` lists them all.

`group` finds a command and turns its end into an exit code. `invocation` opens settings and
database for commands that need them. `display` prints everything. `docs/cli.md` describes every
command.
"""

from imagemill.db.process.quick_exit import quick_exit
from imagemill.scheduler_jobs.cli.group import cli


def main() -> None:
    """The `imagemill` command."""
    with quick_exit():
        cli.main(prog_name="imagemill")


__all__ = ["cli", "main"]
