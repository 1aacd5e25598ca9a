"""What making the Celery application does to the process that makes it: nothing."""

import os
import subprocess
import sys


def test_the_application_leaves_the_environment_of_its_process_alone() -> None:
    """Programs that use the application start processes of their own, from where they like."""
    code = """
import os
before = dict(os.environ)
from imagemill.db.broker.wake_ups import make_app
from imagemill.db.settings import Settings
make_app(Settings())
print(sorted(set(os.environ.items()) ^ set(before.items())))
"""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr
