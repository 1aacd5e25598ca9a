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

from imagemill.db.broker.kinds import check_kinds, notice
from imagemill.db.broker.sentinel import impatient, said, sentinel_options
from imagemill.db.broker.tls import celery_urls, tls_options, with_tls
from imagemill.db.broker.working_folder import Loader
from imagemill.db.errors import BrokerError
from imagemill.db.settings import Settings
from imagemill.db.urls import without_password

log = logging.getLogger(__name__)

SHIFT_TASK = "imagemill.shift"
"""A worker renders until its time is over or nothing is left."""

SCORE_TASK = "imagemill.score"
"""A worker judges finished pictures until its time is over or nothing is left."""

TASKS = (SHIFT_TASK, SCORE_TASK)
"""All tasks. Each has a queue of its own for each route."""

FIRST_TOKENS = 4
"""How many tokens new work gets at once. The dispatcher publishes more as needed."""

_TIME_LIMIT_SLACK_SECONDS = 1800
"""The time that a shift may take beyond its own: to load and compile a model, and to drain."""

_CONFIGURATION: Mapping[str, Any] = MappingProxyType(
    {
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": False,  # the lease is in SQL, so a lost token loses no work
        "task_send_sent_event": True,
        "worker_send_task_events": True,
        "worker_pool_start_method": "spawn",
        # A child that replaces a dead one must first load the libraries. Celery's default kills it
        # after 4 s; on a busy machine or a cold disk no child would ever start.
        "worker_proc_alive_timeout": 120.0,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
    }
)

_SOCKET_OPTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "retry_on_timeout": True,
    }
)


def queue_name(route: str, task: str = SHIFT_TASK) -> str:
    """The Celery queue of a route's tokens for a task. No route has a colon in its name."""
    return f"imagemill.{route}" if task == SHIFT_TASK else f"{task}:{route}"


def make_app(settings: Settings) -> Celery:
    """The Celery application for these settings. It does not connect yet.

    Raises `SettingsError` if Celery has no such broker, or if its options are wrong.
    """
    check_kinds(settings.broker_url.get_secret_value())
    url = with_tls(settings.broker_url.get_secret_value(), settings.broker_ca)
    app = Celery("imagemill", broker=celery_urls(url), loader=Loader)
    # Using `loader` makes the loader now, before Celery could import from the working folder.
    assert isinstance(app.loader, Loader)
    app.conf.update(_CONFIGURATION)
    tls = tls_options(url)
    app.conf.broker_use_ssl = tls
    app.conf.broker_transport_options = {
        **_SOCKET_OPTIONS,
        **sentinel_options(settings, _SOCKET_OPTIONS, tls),
    }
    app.conf.task_default_queue = queue_name(settings.route)
    app.conf.task_time_limit = int(
        settings.shift_seconds + settings.drain_seconds + _TIME_LIMIT_SLACK_SECONDS
    )
    return app


def warn_of_broker(settings: Settings) -> None:
    """Log one line if the broker's kind is not tested. Services call this when they start."""
    problem = notice(settings.broker_url.get_secret_value())
    if problem is not None:
        log.warning("%s", problem)


class Tokens:
    """Publishes wake-up tokens and counts those that wait.

    Every method raises `BrokerError` if the broker does not answer.
    """

    def __init__(self, settings: Settings) -> None:
        self._app = make_app(settings)
        # A producer should report at once that the broker is away. (A worker waits for it.)
        self._app.conf.broker_transport_options = {
            **impatient(self._app.conf.broker_transport_options),
            "max_retries": 1,  # at the next address, where there are several
            "interval_start": 0,
            "interval_step": 0,
            "interval_max": 0,
        }
        self._broker = without_password(settings.broker_url.get_secret_value())

    def _lost(self, error: Exception) -> BrokerError:
        return BrokerError(f"{self._broker}: {said(error)}")

    def publish(self, route: str, count: int = 1, *, task: str = SHIFT_TASK) -> None:
        """Put `count` tokens into a route's queue. There is one quick attempt and no waiting."""
        queue = queue_name(route, task)
        try:
            for _ in range(count):
                self._app.send_task(task, kwargs={"route": route}, queue=queue, retry=False)
        except (kombu.exceptions.OperationalError, RedisError, OSError) as error:
            raise self._lost(error) from error

    def waiting(self, route: str, *, task: str = SHIFT_TASK) -> int:
        """The number of a route's tokens that no worker has taken yet."""
        name = queue_name(route, task)
        try:
            with self._app.connection_for_write() as connection:
                queue = connection.default_channel.queue_declare(name, passive=False)
        except (kombu.exceptions.OperationalError, RedisError, OSError) as error:
            raise self._lost(error) from error
        return int(queue.message_count)

    def close(self) -> None:
        """Close the connections."""
        self._app.close()
