"""A process that ends at once still does what was asked for at its end."""

import subprocess
import sys

PROGRAM = """
import atexit, sys, threading, time
from imagemill.db.process.quick_exit import quick_exit

class Late:
    def __del__(self):
        print("taken to pieces")

late = Late()
with quick_exit():
    atexit.register(print, "asked for")
    thread = threading.Thread(target=lambda: (time.sleep(0.2), print("a thread")))
    thread.start()
    print("said", end=" ")
    {end}
"""


def ended(end: str) -> tuple[int, str, str]:
    """The status, the output and the errors of a program that ends so."""
    program = [sys.executable, "-c", PROGRAM.format(end=end)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_status_ends_it_after_threads_and_what_was_registered():
    assert ended("sys.exit(3)") == (3, "said a thread\nasked for\n", "")
    assert ended("sys.exit()")[0] == 0


def test_whatever_else_ends_it_is_shown_as_python_does():
    status, output, errors = ended("raise LookupError('lost')")
    assert (status, errors.splitlines()[-1]) == (1, "LookupError: lost")
    assert output.endswith("asked for\ntaken to pieces\n")
    assert ended("sys.exit('said last')")[::2] == (1, "said last\n")
