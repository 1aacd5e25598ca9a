"""The broker: a Celery application, and the wake-up tokens that it carries.

A token is a message that holds a route and nothing else. It tells a worker that there may be work;
the worker reads from the database what to do. So a token that is lost, late or sent twice costs at
most one look at the database.
"""

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import kombu.exceptions
from celery import Celery
from redis.exceptions import RedisError

from imagemill.db.broker.tls import notice, tls_options, with_tls
from imagemill.db.broker.working_folder import Loader
from imagemill.db.errors import BrokerError
from imagemill.db.settings import Settings
from imagemill.db.urls import without_password

log = logging.getLogger(__name__)

SHIFT_TASK = "imagemill.shift"
"""The one task: a worker renders until its time is over or nothing is left."""

_TIME_LIMIT_SLACK_SECONDS = 1800
"""What a shift may take beyond its time: loading and compiling a model, draining."""

_CONFIGURATION: Mapping[str, Any] = MappingProxyType(
    {
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": False,  # a shift's lease is in SQL; a token is worth nothing
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "worker_pool_start_method": "spawn",
        # A child that takes the place of a dead one loads the libraries first. Celery gives it
        # 4 s and then kills it, which on a busy machine or a cold disk goes on for ever.
        "worker_proc_alive_timeout": 120.0,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": 30,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "retry_on_timeout": True,
        },
    }
)


def queue_name(route: str) -> str:
    """The Celery queue that serves a route."""
    return f"imagemill.{route}"


def make_app(settings: Settings) -> Celery:
    """The Celery application of these settings. No connection is made here.

    A `SettingsError` if the broker's TLS options are wrong.
    """
    url = with_tls(settings.broker_url.get_secret_value(), settings.broker_ca)
    app = Celery("imagemill", broker=url, loader=Loader)
    # Made now, not when Celery first needs it: it also keeps this process out of that folder.
    assert isinstance(app.loader, Loader)
    app.conf.update(_CONFIGURATION)
    app.conf.broker_use_ssl = tls_options(url)
    app.conf.task_default_queue = queue_name(settings.route)
    app.conf.task_time_limit = int(
        settings.shift_seconds + settings.drain_seconds + _TIME_LIMIT_SLACK_SECONDS
    )
    return app


def warn_of_broker(settings: Settings) -> None:
    """One log line if the broker is of a kind that nobody has tested; when a service starts."""
    problem = notice(settings.broker_url.get_secret_value())
    if problem is not None:
        log.warning("%s", problem)


class Tokens:
    """Publishing wake-up tokens and counting those that wait. `BrokerError` if it is away."""

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        # A producer says at once that the broker is away; a worker's consumer waits for it.
        self._app.conf.broker_transport_options |= {
            "max_retries": 1,
            "interval_start": 0.1,
            "interval_step": 0.1,
            "interval_max": 0.2,
        }
        self._broker = without_password(settings.broker_url.get_secret_value())

    def publish(self, route: str, count: int = 1) -> None:
        """Put `count` tokens into a route's queue; one quick attempt, no waiting."""
        try:
            for _ in range(count):
                self._app.send_task(
                    SHIFT_TASK, kwargs={"route": route}, queue=queue_name(route), retry=False
                )
        except (kombu.exceptions.OperationalError, RedisError, OSError) as error:
            raise BrokerError(f"{self._broker}: {error}") from error

    def waiting(self, route: str) -> int:
        """How many tokens of a route no worker has taken yet."""
        try:
            with self._app.connection_for_write() as connection:
                queue = connection.default_channel.queue_declare(queue_name(route), passive=False)
        except (kombu.exceptions.OperationalError, RedisError, OSError) as error:
            raise BrokerError(f"{self._broker}: {error}") from error
        return int(queue.message_count)

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
