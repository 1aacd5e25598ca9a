"""Every distribution of a deployed image with its version and SHA-256, as pip resolves it here.

`python -m tools.hashes` writes `deploy/hashes/control.txt` and `worker.txt` for the platform that
it runs on (CPython and machine stand in the files); `--torch-index URL` writes `torch.txt` too,
for the build of torch that this index has. Nothing is installed and no configuration of pip's
counts, so the hashes are those of the index named.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy" / "hashes"
PYPI = "https://pypi.org/simple"
OLDER_PYTHONS = ["async-timeout"]
"""What redis needs before Python 3.11.3 alone: it has its hash whatever Python writes the file."""


def closure(requirements: Sequence[str], *, index: str, more: str | None = None) -> dict[str, str]:
    """Requirements and all that they need: `name==version` → SHA-256 of the file pip would take."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--report", "-"]
    command += ["--ignore-installed", "--only-binary", ":all:", "--index-url", index]
    command += ["--constraint", str(ROOT / "constraints.txt")]
    if more is not None:
        command += ["--extra-index-url", more]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    environment["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run(  # noqa: S603  # pip, with requirements of our own files
        [*command, *requirements], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return dict(sorted(_pinned(item) for item in json.loads(done.stdout)["install"]))


def _pinned(item: Mapping[str, Any]) -> tuple[str, str]:
    name = normalized(item["metadata"]["name"])
    digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{name}=={item['metadata']['version']}", digest


def normalized(name: str) -> str:
    """A distribution's name as an index writes it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def control_requirements() -> list[str]:
    """What the control image is built from."""
    lines = (ROOT / "deploy" / "control.txt").read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def worker_requirements() -> list[str]:
    """What the worker image is built from: our dependencies and LoRA's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["lora"]]


def without_torch(found: Mapping[str, str]) -> dict[str, str]:
    """What is the same beside every build of torch: neither it nor what CUDA brings along."""
    own = re.compile(r"(torch|triton|nvidia-(?!ml-py).*|cuda-.*)==")
    return {pin: digest for pin, digest in found.items() if own.match(pin) is None}


def write(name: str, found: Mapping[str, str], *, index: str) -> None:
    """One of the files, in the form that pip's --require-hashes reads."""
    machine = f"{platform.system()} {platform.machine()}, CPython {sys.version.split(' ')[0]}"
    head = f"# Written by tools/hashes.py for {machine}, from {index}: deploy/README.md.\n"
    lines = [f"{pin} \\\n    --hash=sha256:{digest}\n" for pin, digest in found.items()]
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / name).write_text(head + "".join(lines), "utf-8")
    print(f"{FOLDER.name}/{name}: {len(found)} distributions")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.hashes", description=__doc__)
    parser.add_argument("--index", default=PYPI, help="where everything but torch comes from")
    parser.add_argument("--torch-index", help="where torch comes from; writes torch.txt")
    options = parser.parse_args()
    if options.torch_index:
        torch = closure(["torch"], index=options.torch_index, more=options.index)
        write("torch.txt", torch, index=options.torch_index)
    control = closure([*control_requirements(), *OLDER_PYTHONS], index=options.index)
    write("control.txt", control, index=options.index)
    worker = closure([*worker_requirements(), *OLDER_PYTHONS], index=options.index)
    write("worker.txt", without_torch(worker), index=options.index)


if __name__ == "__main__":
    main()
