"""`cost`: the time of devices that a job took, and its price; and the same of a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import click

from imagemill.db.documents import JSON
from imagemill.db.errors import UsageError
from imagemill.db.queries.fleet.costs import DeviceTime, JobTime, time_of_job
from imagemill.db.queries.jobs.lifecycle import find_job
from imagemill.scheduler_jobs.cli.arguments import job_argument
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, duration, number, plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.prices import EXAMPLE, SETTING, price_of, read_prices
from imagemill.scheduler_jobs.submit.forecast import Forecast

_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceCost:
    """A job's pictures on one kind of device. Prices are None where none was given."""

    device: str = field(metadata={JSON: "device"})
    images: int
    seconds: float
    images_per_hour: float | None
    price_per_hour: float | None
    cost: float | None


@click.command()
@pass_invocation
@job_argument()
@click.option(
    "--prices",
    metavar="LIST",
    help=f"Prices of an hour by device, such as {EXAMPLE} (default: IMAGEMILL_PRICES).",
)
@output.json_option
def cost(invocation: Invocation, job: str, prices: str | None, as_json: bool) -> None:
    """Say what a job cost: time of devices, and its price.

    The time is the engine's for the pictures that were rendered for the job: seconds of a GPU, on
    a CPU those of a worker process. Loading models, failed attempts and waiting are not in it.

    \b
    Example:
      imagemill cost latest --prices "H200=3.5,cpu=0.05"
    """
    text, where = (invocation.settings.prices, SETTING) if prices is None else (prices, "--prices")
    known = read_prices(text, where=where)
    with invocation.reading() as session:
        found = find_job(session, job)
        job_id, name = found.id, found.name
        time = time_of_job(session, job_id)
    devices = [_priced(each, known) for each in time.devices]
    if prices is not None and devices and all(each.cost is None for each in devices):
        names = ", ".join(sorted({each.device for each in devices}))
        raise UsageError(f"--prices: {prices!r} has no price for {names}, or for cuda or cpu")
    costs = [each.cost for each in devices if each.cost is not None]
    whole = sum(costs) if devices and len(costs) == len(devices) else None
    if as_json:
        output.emit(
            {
                "job_id": job_id,
                "job_name": name,
                "devices": devices,
                "seconds": sum(each.seconds for each in devices),
                "cost": whole,
                "reused": time.reused,
            }
        )
        return
    output.line(f"job {job_id} ({name})")
    _print(devices, time, whole, priced=bool(known))


def _priced(time: DeviceTime, prices: Mapping[str, float]) -> DeviceCost:
    price = price_of(prices, device=time.device, kind=time.kind)
    return DeviceCost(
        device=time.device,
        images=time.images,
        seconds=time.seconds,
        images_per_hour=time.images / time.seconds * _HOUR if time.seconds else None,
        price_per_hour=price,
        cost=None if price is None else price * time.seconds / _HOUR,
    )


def _print(devices: list[DeviceCost], time: JobTime, whole: float | None, *, priced: bool) -> None:
    if not devices:
        output.line("no picture was rendered for it")
    else:
        output.table(
            (
                Column(title="DEVICE", elastic=True),
                Column(title="IMAGES", right=True),
                Column(title="TIME", right=True),
                Column(title="IMAGES/H", right=True),
                Column(title="PRICE/H", right=True),
                Column(title="COST", right=True),
            ),
            (
                (
                    each.device,
                    f"{each.images:,}",
                    duration(each.seconds),
                    None if each.images_per_hour is None else number(round(each.images_per_hour)),
                    None if each.price_per_hour is None else f"{each.price_per_hour:g}",
                    _money(each.cost),
                )
                for each in devices
            ),
        )
    if whole is not None:
        output.line(f"cost: {_money(whole)}")
    elif devices and not priced:
        output.line(f"no prices: set IMAGEMILL_PRICES, such as {EXAMPLE}")
    elif devices:
        without = ", ".join(each.device for each in devices if each.cost is None)
        output.line(f"no price for {without}")
    if time.reused:
        are = "was" if time.reused == 1 else "were"
        output.line(f"{plural(time.reused, 'picture')} {are} there before and cost nothing")


def print_forecast(forecasts: Sequence[Forecast], unmeasured: int | None) -> None:
    """What rendering would take, by device; nothing where there is nothing to render."""
    if forecasts:
        output.line()
        output.table(
            (
                Column(title="ON ONE", elastic=True),
                Column(title="IMAGES", right=True),
                Column(title="TAKES", right=True),
                Column(title="COST", right=True),
            ),
            (
                (each.device, f"{each.images:,}", duration(each.seconds), _money(each.cost))
                for each in forecasts
            ),
        )
    if unmeasured:
        output.line()
        output.line(
            f"no time for {plural(unmeasured, 'image')}: none of that model, size, steps and "
            "sampler was rendered here before"
        )


def _money(cost: float | None) -> str | None:
    """Two decimals; more for less than a hundredth, so that nothing looks free that is not."""
    if cost is None:
        return None
    return f"{cost:,.2f}" if cost >= 1 or cost == 0 else f"{cost:.4f}"
