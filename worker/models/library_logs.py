"""Sends the log lines of diffusers and transformers through our own log.

By default these libraries print in a format of their own, with progress bars and without
escaping. Some of their warnings quote the part of a prompt that a text encoder cut off. Like our
own prompts, these warnings are logged only if the log level is DEBUG.
"""

import logging
from typing import Any

import diffusers
import transformers

from imagemill.db.settings import Settings


def take_over_library_logs(settings: Settings) -> None:
    """Send the libraries' log lines to this process's log, without prompts. Safe to repeat."""
    level = logging.WARNING if settings.log_level == "DEBUG" else logging.ERROR
    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.disable_default_handler()
        library.enable_propagation()
        library.set_verbosity(level)
        library.disable_progress_bar()
