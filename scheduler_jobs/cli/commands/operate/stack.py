"""`up`, `join`, `down`, `ps`, `logs` and `env`: the production parts, without Docker."""

import shlex
import sys
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

import click

from imagemill.db.errors import UsageError
from imagemill.db.given_settings import read_environment
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.stack.control import (
    bring_up,
    check_names,
    own_token,
    take_down,
    wait_until_up,
)
from imagemill.scheduler_jobs.stack.control import join as begin_work
from imagemill.scheduler_jobs.stack.environment import flower_login, owner_exports
from imagemill.scheduler_jobs.stack.home import StackHome
from imagemill.scheduler_jobs.stack.log_files import follow, last_lines
from imagemill.scheduler_jobs.stack.plan import Plan
from imagemill.scheduler_jobs.stack.services import service_names
from imagemill.scheduler_jobs.stack.state import ServiceReport, ServiceState, read_state
from imagemill.scheduler_jobs.stack.token import JoinToken
from imagemill.scheduler_jobs.web_server import address as gallery_address

_COLUMNS = (
    Column(title="SERVICE"),
    Column(title="STATE"),
    Column(title="PID", right=True),
    Column(title="ADDRESS", whole=True),
    Column(title="RESTARTS", right=True),
    Column(title="FOR", right=True),
    Column(title="WHY", elastic=True),
)

_services = click.argument("services", nargs=-1, metavar="[SERVICE]...")
_workers_option = click.option(
    "--workers",
    type=click.IntRange(0, 64),
    metavar="N",
    help="Worker services; 1 at first, later as before.",
)
_children_option = click.option(
    "--children",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Processes of each worker (at first: one for each GPU, or on a CPU for each core).",
)


@click.command()
@pass_invocation
@_services
@_workers_option
@_children_option
@click.option(
    "--listen",
    metavar="ADDRESS[:PORT]",
    help="Let workers of other machines in here, by TLS (`imagemill join`); none: nowhere.",
)
@output.json_option
def up(
    invocation: Invocation,
    services: tuple[str, ...],
    workers: int | None,
    children: int | None,
    listen: str | None,
    as_json: bool,
) -> None:
    """Start the production parts on this machine, and keep them running.

    PostgreSQL, Valkey, an S3 server, dispatcher, workers, Flower, the gallery and OpenAI's API
    (`imagemill serve`), on loopback alone, with passwords of their own. Everything is kept in the
    folder of --home (default: ~/.local/share/imagemill, for root /var/lib/imagemill); the same
    command again goes on with it. With a SERVICE, starts again what `imagemill down SERVICE` has
    stopped.

    \b
    Example:
      imagemill up
      eval "$(imagemill env)"
      imagemill submit prompts.csv
    """
    home = StackHome.at(invocation.home)
    plan = bring_up(home, services, listen=listen, workers=workers, children=children)
    _await(home, plan, as_json=as_json)


@click.command()
@pass_invocation
@click.argument("token", metavar="TOKEN")
@_workers_option
@_children_option
@output.json_option
def join(
    invocation: Invocation,
    token: str,
    workers: int | None,
    children: int | None,
    as_json: bool,
) -> None:
    """Start workers here for the services of `imagemill up` on another machine.

    The TOKEN is what `imagemill env --join` prints there: its address, the fingerprint of its
    certificate, and a worker's passwords. `-` reads it from standard input, so that it is in no
    process list. `ps`, `logs`, `down` and `up` work here as they do there.

    \b
    Example:
      imagemill up --listen 10.0.0.1     (there)
      imagemill join TOKEN               (here)
    """
    home = StackHome.at(invocation.home)
    text = sys.stdin.read() if token == "-" else token  # noqa: S105
    plan = begin_work(home, JoinToken.decoded(text), workers=workers, children=children)
    _await(home, plan, as_json=as_json)


@click.command()
@pass_invocation
@_services
@output.json_option
def down(invocation: Invocation, services: tuple[str, ...], as_json: bool) -> None:
    """Stop what `imagemill up` has started; its data stays.

    Workers stop at their next step and give back their images; the servers end last. With a
    SERVICE, only that stops, until the next `up`: `imagemill down worker-2` drains one worker.

    \b
    Example:
      imagemill down
    """
    home = StackHome.at(invocation.home)
    ran = take_down(home, services, still=_say_still)
    if as_json:
        output.emit(_document(home, read_state(home)))
    elif not ran:
        output.line(f"nothing runs in {home.path}")
    else:
        what = ", ".join(services) if services else "everything"
        have = "have" if len(services) > 1 else "has"
        output.line(f"{what} {have} stopped; the data stays in {home.path}")


@click.command()
@pass_invocation
@output.json_option
def ps(invocation: Invocation, as_json: bool) -> None:
    """Show the services of `imagemill up`: state, process, address, restarts.

    \b
    Example:
      imagemill ps
    """
    home = StackHome.at(invocation.home)
    _planned(home)
    reports = read_state(home)
    if as_json:
        output.emit(_document(home, reports))
        return
    _show(reports)
    if home.supervisor_pid() is None:
        output.line(f"nothing runs; `{home.command} up` starts it", error=True)


@click.command()
@pass_invocation
@_services
@click.option("--follow", "-f", is_flag=True, help="Go on with new lines until Ctrl-C.")
@click.option(
    "--lines",
    "-n",
    type=click.IntRange(0, 1_000_000),
    default=100,
    show_default=True,
    metavar="N",
    help="The last N lines of each service.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each line.")
def logs(
    invocation: Invocation, services: tuple[str, ...], follow: bool, lines: int, as_json: bool
) -> None:
    """Show what the services of `imagemill up` have logged.

    Without a SERVICE, of all and of their supervisor.

    \b
    Example:
      imagemill logs worker-1 --follow
    """
    home = StackHome.at(invocation.home)
    names = _log_names(_planned(home), services)
    files = {name: home.log(name) for name in names}
    for name, file in files.items():
        for line in last_lines(file, lines):
            _show_line(name, line, names, as_json=as_json)
    if follow:
        for name, line in _follow(files):
            _show_line(name, line, names, as_json=as_json)


@click.command()
@pass_invocation
@click.option(
    "--join", "joining", is_flag=True, help="Print the token for `imagemill join` instead."
)
@click.option(
    "--owner",
    is_flag=True,
    help="Print those of the owner of the tables instead, for `migrate` and `restore`.",
)
@output.json_option
def env(invocation: Invocation, joining: bool, owner: bool, as_json: bool) -> None:
    """Print the variables by which other shells find the services of `imagemill up`.

    They have passwords, as the token has. `imagemill --home DIR COMMAND` needs none of them.

    \b
    Examples:
      eval "$(imagemill env)"
      (eval "$(imagemill env --owner)"; imagemill restore /mnt/backups/full)
    """
    home = StackHome.at(invocation.home)
    plan = _planned(home)
    if joining and owner:
        raise UsageError("--join and --owner are two things: give one of them")
    if joining:
        token = own_token(home, plan).encoded()
        if as_json:
            output.emit({"token": token})
        else:
            click.echo(token)
        return
    variables = read_environment(home.environment)
    if owner:
        variables = owner_exports(plan)
    if as_json:
        output.emit({"environment": variables})
        return
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


_follow = follow


def _planned(home: StackHome) -> Plan:
    """The plan of a home. Raises `UsageError` if nothing was brought up there."""
    plan = Plan.load(home)
    if plan is None:
        raise UsageError(
            f"nothing was brought up in {home.path}; `{home.command} up` does that, --home DIR "
            "finds another stack"
        )
    return plan


def _log_names(plan: Plan, services: Collection[str]) -> tuple[str, ...]:
    check_names(plan, [name for name in services if name != "supervisor"])
    return tuple(services) or ("supervisor", *service_names(plan))


def _show_line(name: str, line: str, names: Collection[str], *, as_json: bool) -> None:
    if as_json:
        output.emit({"service": name, "line": line})
    elif len(names) == 1:
        output.line(line)
    else:
        output.line(f"{name.ljust(max(map(len, names)))} | {line}")


def _say_still(names: Collection[str]) -> None:
    """What `down` waits for: a worker may take as long as `IMAGEMILL_DRAIN_SECONDS` says."""
    output.line(f"still stopping: {', '.join(names) or 'the supervisor'}", error=True)


class _Told:
    """Says on standard error which services run now, and what troubles the others."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._said: set[tuple[str, str | None]] = set()

    def __call__(self, reports: Collection[ServiceReport]) -> None:
        """Say what is new."""
        for report in reports:
            about = (report.service, report.reason)
            if report.state is ServiceState.RESTARTING and about not in self._said:
                self._said.add(about)
                if not self._quiet:
                    output.line(f"{report.service}: {report.reason}; trying again", error=True)


def _document(home: StackHome, reports: Collection[ServiceReport]) -> Mapping[str, object]:
    return {
        "home": str(home.path),
        "supervisor_pid": home.supervisor_pid(),
        "services": list(reports),
    }


def _show(reports: Collection[ServiceReport]) -> None:
    columns = _COLUMNS if any(report.reason for report in reports) else _COLUMNS[:-1]
    rows = [
        (
            report.service,
            report.state,
            report.pid,
            # Without the scheme, the table fits into 80 columns.
            (report.address or "").removeprefix("http://"),
            report.restarts,
            output.duration((datetime.now(UTC) - report.since).total_seconds()),
            report.reason,
        )[: len(columns)]
        for report in reports
    ]
    output.table(columns, rows)


def _await(home: StackHome, plan: Plan, *, as_json: bool) -> None:
    """Wait until everything runs, and show it."""
    wait_until_up(home, _Told(quiet=as_json))
    reports = read_state(home)
    if as_json:
        output.emit(_document(home, reports))
        return
    _show(reports)
    if plan.first is None:
        _show_pages(home, plan)


def _show_pages(home: StackHome, plan: Plan) -> None:
    """The addresses to open, with what they ask for, and what to do next."""
    user, _, password = flower_login(plan).partition(":")
    gallery = gallery_address(LOOPBACK, plan.ports["gallery"], plan.secrets["gallery"])
    api = f"http://{LOOPBACK}:{plan.ports['serve']}/v1" if "serve" in plan.ports else None
    output.line()
    output.pairs(
        [
            ("gallery", gallery),
            ("Flower", f"http://{LOOPBACK}:{plan.ports['flower']}/"),
            ("", f"user {user}, password {password}"),
            ("OpenAI's API", api),
            ("", "the key is IMAGEMILL_API_KEY of `imagemill env`"),
            ("other shells", f'eval "$({home.command} env)"'),
            ("other machines", None if plan.listen is None else f"{home.command} env --join"),
        ]
    )
