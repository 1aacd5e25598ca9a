"""Settings: one frozen, typed object, built once at an entry point and passed down.

The first source that has a value wins: arguments of the call, `IMAGEMILL_*` environment variables,
`imagemill.toml` (in the working folder, or the file that `IMAGEMILL_CONFIG` names), the defaults
here. `given_settings` reads the sources.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from imagemill.db.errors import SettingsError
from imagemill.db.given_settings import (
    DATABASE_URL,
    in_environment,
    in_file,
    in_home,
    warn_of_mistyped,
)
from imagemill.db.urls import has_host, split_urls

_NO_HOST = (
    "its host or port can't be read; a port is a number up to 65535, and @, /, ?, # and : "
    "in a password are written %40, %2F, %3F, %23 and %3A"
)
_NUMBERED = ("redis://", "rediss://", "sentinel://", "sentinels://")
_MAY_HOLD_SECRETS = frozenset({"storage_url", "s3_endpoint_url", "notify_command"})
_SHOWN_CHARACTERS = 60
_DATABASE_NUMBER = re.compile(r"/{0,2}[0-9]*")
_ENDPOINT = re.compile(r"https?://[^\s/]+(/\S*)?", re.IGNORECASE)

_YEAR_SECONDS = 31_557_600
MOST_SECONDS = 100 * _YEAR_SECONDS
"""The longest wait or age in seconds, a century: what dates, sleeps and databases can hold."""

Seconds = Annotated[float, Field(le=MOST_SECONDS)]
Days = Annotated[float, Field(le=MOST_SECONDS / 86_400)]

Batches = Literal["continuous", "recorded"]
"""How slots are filled: each as soon as it is free, or all together in recorded micro-batches."""

Workspace = Literal[":16:8", ":4096:8"]
"""Workspaces of cuBLAS with which it repeats bits: so many KiB, so many of them."""


class Settings(BaseModel):
    """Every setting. The environment variable is the name in capitals after `IMAGEMILL_`.

    Made by `load`; a call of the class takes its arguments alone.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False
    )

    database_url: SecretStr = Field(
        SecretStr(DATABASE_URL), description="SQLAlchemy URL of the database"
    )
    broker_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Celery broker: Redis, Valkey or Sentinel",
    )
    broker_ca: Path | None = Field(
        None,
        description="PEM file of the authorities that rediss:// and sentinels:// trust, "
        "if not the system's",
    )
    broker_master: str | None = Field(
        None, min_length=1, description="name of the master that sentinel:// brokers watch"
    )
    broker_sentinel_password: SecretStr | None = Field(
        None, description="password of the Sentinels themselves, if they ask for one"
    )
    storage_url: str = Field(
        "objects", description="where pictures go: a folder, or s3://bucket/prefix"
    )
    s3_endpoint_url: str | None = Field(None, description="S3 endpoint, if it is not AWS")
    s3_checksums: Literal["when_supported", "when_required"] = Field(
        "when_required", description="when boto3 adds checksums; some stores refuse them"
    )

    models: Path | None = Field(None, description="the model registry file (TOML)")
    model_cache: Path | None = Field(None, description="folder for pulled models")
    default_model: str = Field("shapes64", description="the model of rows without one")
    adapters_folder: Path | None = Field(None, description="folder of LoRA and embedding files")
    inputs_folder: Path | None = Field(None, description="folder of init images and masks")

    device: str = Field("auto", description="auto, cpu, cuda, or cuda:N")
    dtype: Literal["auto", "fastest", "fp16", "bf16", "fp32"] = Field(
        "auto",
        description="auto is fp16 on a GPU, fp32 on a CPU; fastest is auto, but on a CPU bf16 for "
        "models that a trial finds faster so",
    )
    slots: int | None = Field(
        None, ge=1, le=512, description="B, the images of one forward pass; found if not set"
    )
    batches: Batches = Field(
        "continuous",
        description="recorded: fixed micro-batches; for devices that fail the certificate",
    )
    reproducible: bool = Field(
        True, description="algorithms that repeat bits; false: the fastest ones, no bits promised"
    )
    cublas_workspace: Workspace = Field(
        ":16:8",
        description="cuBLAS's fixed workspaces on a GPU; :4096:8 allows faster kernels, which may "
        "make pixels depend on the batch",
    )
    attention: str = Field(
        "sdpa",
        pattern=r"^(sdpa|math|flash|efficient|cudnn|diffusers:[a-z0-9_]+)$",
        description="attention kernel: sdpa (torch's own choice), math, flash, efficient, cudnn, "
        "or diffusers:NAME for a backend of diffusers",
    )
    channels_last: bool | None = Field(
        None, description="memory format of convolutions; on a GPU yes, if not set"
    )
    compile: bool = Field(False, description="torch.compile the denoiser")
    compile_regions: bool = Field(
        False, description="torch.compile the denoiser's repeated blocks alone: sooner ready"
    )
    compile_vae: bool = Field(False, description="torch.compile the VAE's decoder")
    compile_mode: (
        Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None
    ) = Field(None, description="torch.compile's mode for all that is compiled")
    compile_cache: bool = Field(
        False,
        description="share compiled kernels through the store; who can write there can then run "
        "code in workers",
    )
    fuse_projections: bool = Field(False, description="fuse the projections of attention")
    cpu_offload: bool = Field(False, description="keep text encoders and VAE off the GPU at rest")
    group_offload: Literal["block", "leaf"] | None = Field(
        None, description="keep denoisers off the GPU but for the blocks or layers in use"
    )
    fp8_storage: bool = Field(
        False, description="store the denoiser's weights in fp8 and compute in the precision"
    )
    vae_tiling: bool = Field(False, description="decode in tiles: less memory for large pictures")
    vae_slicing: bool = Field(False, description="decode pictures of a batch one by one")
    threads: int = Field(1, ge=1, description="intra-op threads of one child on a CPU")
    children: int | None = Field(
        None, ge=1, description="worker processes; one per GPU or core if not set"
    )
    max_worker_memory: ByteSize | None = Field(
        None, gt=0, description="a child with more than this in RAM is replaced: 24GiB"
    )
    warm_models: int = Field(2, ge=1, description="models kept loaded in one child")
    route: str = Field("default", pattern=r"^[A-Za-z0-9_.-]{1,64}$", description="worker label")
    labels: str = Field("", description="labels of workers, which jobs may need: gpu=h100,nvlink")

    certificates: Path | None = Field(
        None,
        description="folder in which workers remember tests of batch independence for new "
        "databases; `imagemill run` has one in the user's cache if not set",
    )

    lease_seconds: Seconds = Field(60, gt=0, description="a shift's lease, renewed while it works")
    heartbeat_seconds: Seconds = Field(5, gt=0, description="how often a shift renews its lease")
    hang_seconds: Seconds = Field(
        300, gt=0, description="how long one step may take before its worker counts as hung"
    )
    shift_seconds: Seconds = Field(600, gt=0, description="how long one Celery task works")
    drain_seconds: Seconds = Field(20, gt=0, description="how long a worker may take to stop")
    notice_file: Path | None = Field(
        None, description="a worker drains when this file appears: a spot instance's notice"
    )
    max_solo_failures: int = Field(3, ge=1, description="failures alone before an image is dead")
    max_solo_losses: int = Field(
        8, ge=1, description="the same if its worker was lost, which may have other causes"
    )
    # Doubled up to ten times.
    retry_seconds: float = Field(
        5, ge=0, le=_YEAR_SECONDS, description="first wait before a retry; doubles"
    )
    sweep_age_seconds: Seconds = Field(
        86400, ge=0, description="how old an object without a row must be to be swept"
    )

    prune_days: Days | None = Field(
        None, gt=0, description="the dispatcher removes jobs that ended so long ago; not set: never"
    )
    prune_label: str | None = Field(None, description="it removes only jobs with this label")
    prune_keep_label: str | None = Field("keep", description="it removes no job with this label")

    uploads_days: Days = Field(
        30,
        ge=0,
        description="the dispatcher removes what was uploaded to `serve`, and input pictures that "
        "`submit` stored, once no image starts from them and so many days went by without a use; "
        "0: never",
    )

    notify_urls: SecretStr | None = Field(
        None, description="webhooks that hear of every job's events, with spaces between them"
    )
    notify_secret: SecretStr | None = Field(
        None, description="whsec_… that signs webhooks; several while they are changed, with spaces"
    )
    notify_command: str | None = Field(
        None, description="a command that the dispatcher runs for every event"
    )
    notify_events: str = Field(
        "job.finished job.failing job.stalled", description="the events that are told"
    )
    notify_hosts: str | None = Field(
        None,
        description="hosts that webhooks of jobs may name: *.lab 10.0.0.7:8080; "
        "not set: public ones",
    )
    notify_dead_images: int = Field(
        10, ge=1, description="a job is failing if so many images are dead"
    )
    notify_dead_share: float = Field(
        0.05, ge=0, le=1, description="and if they are this part of those that ended"
    )
    notify_stalled_seconds: Seconds = Field(
        900, gt=0, description="a job is stalled if none of its ready images is done for so long"
    )

    max_pixels: int = Field(4096 * 4096, gt=0, description="most width x height of an image")
    max_steps: int = Field(1000, gt=0, description="most denoising steps")
    max_samples: int = Field(10_000, gt=0, description="most images of one row")
    max_prompt_bytes: int = Field(32_768, gt=0, description="most UTF-8 bytes of a prompt")
    max_line_bytes: int = Field(1_048_576, gt=0, description="most bytes of a manifest line")
    max_rows: int = Field(100_000_000, gt=0, description="most rows of a manifest")
    max_guidance_scale: int = Field(100, gt=0, description="most guidance of an image")

    prices: str | None = Field(
        None, description="what an hour costs by device, for `cost`: H200=3.5,cpu=0.05"
    )

    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="where a worker or dispatcher serves /metrics, if at all"
    )
    metrics_address: str = Field(
        "127.0.0.1", min_length=1, description="the address on which it serves them"
    )

    log_format: Literal["human", "json"] = Field("human", description="how log lines look")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="the least severe log lines that are written"
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_no_truth(cls, value: Any, info: ValidationInfo) -> Any:
        """In a settings file, `slots = true` is no 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in {kind, *get_args(kind)}:
            raise ValueError("expected a number or a text, not true or false")
        return value

    @field_validator("broker_url")
    @classmethod
    def _is_a_broker(cls, urls: SecretStr) -> SecretStr:
        for url in split_urls(urls.get_secret_value()):
            if not has_host(url):
                raise ValueError(_NO_HOST)
            if url.startswith(_NUMBERED) and not _DATABASE_NUMBER.fullmatch(urlsplit(url).path):
                raise ValueError("after the host comes the number of a database, as in /0")
        return urls

    @field_validator("s3_endpoint_url")
    @classmethod
    def _is_a_server(cls, url: str | None) -> str | None:
        if url and not _ENDPOINT.fullmatch(url):
            raise ValueError("expected the address of a server, http://host:port or https://host")
        if url and not has_host(url):
            raise ValueError(_NO_HOST)
        return url

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """The settings of this process.

        Raises `SettingsError`, which names the bad setting and what it may be.
        """
        variables = in_environment()
        warn_of_mistyped(cls.model_fields)
        named = {name: variables[name] for name in cls.model_fields if name in variables}
        try:
            return cls(**{**in_file(), **named, **overrides})
        except ValidationError as error:
            raise SettingsError("; ".join(_problem(dict(e)) for e in error.errors())) from None

    @classmethod
    def for_home(cls, home: Path, **overrides: Any) -> "Settings":
        """The settings for the database and pictures of `imagemill run --out HOME`."""
        return cls.load(**{**in_home(home), **overrides})

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a process that we start.

        Settings that nobody has set are left out: the process has the same defaults.
        """
        values: dict[str, str] = {}
        for name in self.model_fields_set:
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is not None:
                values[f"IMAGEMILL_{name.upper()}"] = str(value)
        return values


def _problem(error: dict[str, Any]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name.lower(), Settings.model_fields, n=1)
        meant = f"did you mean {near[0]}? " if near else ""
        return f"there is no setting {name}; {meant}docs/settings.md lists them"
    said = str(error["msg"]).removeprefix("Value error, ")
    return f"IMAGEMILL_{name.upper()}: {said}{_found(name, error['input'])}"


def _found(name: str, value: Any) -> str:
    """The value of a message about it; empty where it may hold a password."""
    kind = Settings.model_fields[name].annotation
    if SecretStr in {kind, *get_args(kind)} or name in _MAY_HOLD_SECRETS:
        return ""
    text = repr(value)
    return f"; found {text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + '…'}"
