"""What diffusers and transformers say, as lines of our own log.

By themselves they print past it: in their own format, with progress bars, and unescaped. Some of
their warnings quote the prompt (the part that a text encoder cut off), so below ERROR they are
heard only where the log level is DEBUG, as prompts of our own are.
"""

import logging
from typing import Any

import diffusers
import transformers

from imagemill.db.settings import Settings


def take_over_library_logs(settings: Settings) -> None:
    """Send the libraries' lines to this process's log, without prompts. Safe to repeat."""
    level = logging.WARNING if settings.log_level == "DEBUG" else logging.ERROR
    libraries: tuple[Any, ...] = (diffusers.utils.logging, transformers.utils.logging)
    for library in libraries:
        library.disable_default_handler()
        library.enable_propagation()
        library.set_verbosity(level)
        library.disable_progress_bar()
