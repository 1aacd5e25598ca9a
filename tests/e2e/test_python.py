"""`imagemill.run` from a script: real servers, a real worker, and no torch in the script itself."""

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers.places import ROOT

SCRIPT = """
import json, sys
import imagemill

rows = [{"prompt": "a red circle", "id": "p1"}, {"prompt": "a blue star", "mood": "calm"}]
job = imagemill.run(rows, sys.argv[1], steps=2, name="mine")
again = imagemill.run(rows, sys.argv[1], steps=2, name="mine", progress=False)
print(json.dumps({
    "torch": "torch" in sys.modules,
    "job": repr(job),
    "rendered": [job.result.rendered, again.result.rendered],
    "same": again.id == job.id,
    "sizes": [image.picture().size for image in job.images()],
    "mood": [image.get("mood") for image in job.images()],
}))
"""


def test_a_script_renders_rows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    assert json.loads(done.stdout) == {
        "torch": False,
        "job": "<job 1 (mine): 2/2 · finished>",
        "rendered": [2, 0],
        "same": True,
        "sizes": [[64, 64], [64, 64]],
        "mood": [None, "calm"],
    }
    assert "mine: 2/2" in done.stderr
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2
