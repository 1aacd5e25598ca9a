"""What an hour of a device costs, as the setting `IMAGEMILL_PRICES` says."""

import math
from collections.abc import Mapping

from imagemill.db.errors import SettingsError

EXAMPLE = "H200=3.5,cpu=0.05"

SETTING = "IMAGEMILL_PRICES"


def read_prices(text: str | None, *, where: str = SETTING) -> Mapping[str, float]:
    """Prices of an hour by a part of the device's name, or by `cuda` or `cpu`.

    Raises `SettingsError` for a text that is no such list; `where` is what it calls its place.
    """
    prices: dict[str, float] = {}
    for entry in (text or "").split(","):
        if not entry.strip():
            continue
        name, _, value = (part.strip() for part in entry.rpartition("="))
        try:
            price = float(value)
        except ValueError:
            price = math.nan
        if not name or not math.isfinite(price) or price < 0:
            raise SettingsError(
                f"{where}: {entry.strip()!r} is no price; expected the price of an hour "
                f"by device, such as {EXAMPLE}"
            )
        if name in prices:
            raise SettingsError(f"{where}: {name!r} has two prices")
        prices[name] = price
    return prices


def price_of(prices: Mapping[str, float], *, device: str, kind: str) -> float | None:
    """The price of an hour of a device. The longest name that is part of the device's name wins,
    then its kind (`cuda`, `cpu`); None if neither has a price."""
    fitting = [name for name in prices if name.casefold() in device.casefold()]
    if fitting:
        return prices[max(fitting, key=len)]
    return prices.get(kind)
