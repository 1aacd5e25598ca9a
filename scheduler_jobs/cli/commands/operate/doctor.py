"""`doctor`: checks the set-up."""

import click

from imagemill.scheduler_jobs.cli.commands.operate.checks import (
    Check,
    check_services,
    check_settings,
    worst,
)
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.group import GlobalOptions


@click.command()
@output.json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check the set-up and say how to correct it.

    Checks settings, database and schema, broker, storage (a test object is written and deleted),
    models, the device that workers here would use, and the workers that are alive. Shows no
    passwords. The exit code is 3 if a service does not answer, 2 if something else is wrong.

    \b
    Example:
      imagemill doctor
    """
    options = ctx.find_object(GlobalOptions) or GlobalOptions()
    checks: list[Check] = []

    def note(check: Check) -> None:
        checks.append(check)
        if not as_json:
            _print(check)

    first, settings = check_settings()
    note(first)
    if settings is not None:
        for check in check_services(settings, embedded=options.home is not None):
            note(check)
    code = worst(checks)
    if as_json:
        output.emit({"ok": code == 0, "checks": checks})
    ctx.exit(code)


def _print(check: Check) -> None:
    styles = {"ok": "green", "failed": "red", "note": "yellow"}
    output.marked(check.status, f"{check.name}: {check.detail}", style=styles[check.status])
    if check.mend is not None:
        output.marked("", f"→ {check.mend}")
