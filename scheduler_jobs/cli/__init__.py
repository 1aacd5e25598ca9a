"""The command line: `commands/` holds them by subject, `command_table` lists them all.

`group` finds commands and turns every end of a command into an exit code; `invocation` opens
settings and database for those that need them; `output` is all that people and programs see.
`docs/cli.md` describes every command.
"""

from imagemill.scheduler_jobs.cli.group import cli


def main() -> None:
    """The `imagemill` command."""
    cli.main(prog_name="imagemill")


__all__ = ["cli", "main"]
