"""Runs commands in a process that has trouble: no permission, or files that may not grow.

`main` takes one JSON object: `commands`, each a list of words; `powerless`, whether root's power
over permissions is given up; `most_bytes`, how long a file may become; `patience`, how many seconds
a command waits for its database, a minute if it is not given. It prints a JSON list: the exit code,
standard output and standard error of each command.
"""

import ctypes
import json
import os
import resource
import sys

from click.testing import CliRunner

from imagemill.db.database import Database
from imagemill.scheduler_jobs.cli import cli

_OVER_PERMISSIONS = (1, 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of linux/capability.h."""

_VERSION_3 = 0x20080522
_DROP_FROM_BOUNDING = 24


def give_up_power() -> None:
    """Let permissions count for this process and those that it starts, also if it is root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    if libc.capget(header, data):
        raise OSError(ctypes.get_errno(), "capget")
    for capability in _OVER_PERMISSIONS:
        libc.prctl(_DROP_FROM_BOUNDING, capability, 0, 0, 0)
        for index in range(3):  # effective, permitted, inheritable
            data[index] &= ~(1 << capability)
    if libc.capset(header, data):
        raise OSError(ctypes.get_errno(), "capset")


def main(document: str) -> None:
    """See the module's docstring."""
    wanted = json.loads(document)
    if wanted.get("powerless"):
        give_up_power()
    if wanted.get("most_bytes"):
        most = wanted["most_bytes"]
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if "patience" in wanted:
        assert Database.run.__kwdefaults__ is not None
        Database.run.__kwdefaults__["patience"] = wanted["patience"]
    answers = []
    environment = dict(os.environ)
    for words in wanted["commands"]:
        result = CliRunner().invoke(cli, words, prog_name="imagemill")
        answers.append([result.exit_code, result.stdout, result.stderr])
        os.environ.clear()
        os.environ.update(environment)
    json.dump(answers, sys.stdout)
