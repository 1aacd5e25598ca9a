"""The variables by which processes find a stack's services, each with its own role's passwords."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import tomlkit

from imagemill.db.errors import SettingsError, UsageError, first_line
from imagemill.db.process.logs import API_KEY, FLOWER_LOGIN, GALLERY_TOKEN
from imagemill.scheduler_jobs.local.ports import LOOPBACK
from imagemill.scheduler_jobs.local.seaweedfs import S3_PORT
from imagemill.scheduler_jobs.stack.home import StackHome, open_private
from imagemill.scheduler_jobs.stack.plan import Plan

Role = Literal["producer", "worker"]

DATABASE = "imagemill"
BUCKET = "pictures"
FLOWER_USER = "imagemill"

_FOREIGN = ("AWS_", "IMAGEMILL_BROKER_", "IMAGEMILL_S3_", "IMAGEMILL_METRICS_")
"""The user's own variables that would point a stack's processes elsewhere."""


def database_url(plan: Plan, role: str) -> str:
    """SQLAlchemy URL of a stack's database for one of its roles."""
    account = f"imagemill_{role}:{plan.secrets[role]}"
    return f"postgresql+psycopg://{account}@{LOOPBACK}:{plan.ports['postgres']}/{DATABASE}"


def addresses(plan: Plan, role: Role) -> dict[str, str]:
    """The settings of a process with this role."""
    return {
        "IMAGEMILL_DATABASE_URL": database_url(plan, role),
        "IMAGEMILL_BROKER_URL": broker_url(plan),
        "IMAGEMILL_STORAGE_URL": f"s3://{BUCKET}",
        "IMAGEMILL_S3_ENDPOINT_URL": f"http://{LOOPBACK}:{plan.ports[S3_PORT]}",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": access_key(role),
        "AWS_SECRET_ACCESS_KEY": plan.secrets[f"s3_{role}"],
    }


def broker_url(plan: Plan) -> str:
    """The broker's URL for Celery."""
    return f"redis://:{plan.secrets['broker']}@{LOOPBACK}:{plan.ports['valkey']}/0"


def access_key(role: str) -> str:
    """The S3 access key of a role; it is a name, not a secret."""
    return f"imagemill-{role}"


def flower_login(plan: Plan) -> str:
    """`user:password` of Flower's page."""
    return f"{FLOWER_USER}:{plan.secrets['flower']}"


def exports(plan: Plan) -> dict[str, str]:
    """The variables for people's commands: they submit, watch and export, as a producer does.

    On a machine that has joined another one they may only look, as a worker does.
    """
    if plan.first is not None:
        return addresses(plan, "worker")
    return {
        **addresses(plan, "producer"),
        FLOWER_LOGIN: flower_login(plan),
        GALLERY_TOKEN: plan.secrets["gallery"],
        API_KEY: plan.secrets["api"],
    }


def owner_exports(plan: Plan) -> dict[str, str]:
    """The variables for what only the owner of the tables may do, such as `restore`.

    Raises `UsageError` on a machine that has joined another one, which has not the password.
    """
    if plan.first is not None:
        raise UsageError("only the machine of `imagemill up` has the owner's password")
    return addresses(plan, "producer") | {"IMAGEMILL_DATABASE_URL": database_url(plan, "owner")}


def own_settings(home: StackHome, file: Path) -> str:
    """The settings file for a stack's processes: the user's, without what is about his services.

    A variable can't take a value of a file away, so the processes get a copy. Raises
    `SettingsError` if the file can't be read.
    """
    if str(file) == os.devnull:
        return os.devnull
    try:
        known = tomlkit.parse(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"the settings file {file}: {first_line(error)}") from None
    for name in list(known):
        if f"IMAGEMILL_{name.upper()}".startswith(_FOREIGN):
            del known[name]
    with open_private(home.settings) as copy:
        copy.truncate(0)
        copy.write(tomlkit.dumps(known))
    return str(home.settings)


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The user's environment without what would point a stack's processes elsewhere.

    Other settings stay (models, device, limits), also those of an `imagemill.toml` here.
    """
    kept = {n: value for n, value in environment.items() if not n.startswith(_FOREIGN)}
    config = Path(kept.get("IMAGEMILL_CONFIG", "imagemill.toml"))
    kept["IMAGEMILL_CONFIG"] = str(config.absolute()) if config.is_file() else os.devnull
    return kept
