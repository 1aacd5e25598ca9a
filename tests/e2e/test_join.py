"""`imagemill join` from another machine: a network namespace that has one cable to this one."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import dataset_images, imagemill, last_json
from tests.helpers.machine.cables import Cable, cable

PROMPTS = [f"a {colour} {kind}" for colour in ("red", "green", "blue") for kind in ("star", "ring")]


class Machine:
    """Another machine; `first` is the address of this one on the cable between them."""

    def __init__(self, cable: Cable) -> None:
        self._prefix = cable.prefix
        self.first = cable.address

    def run(self, *command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        inside = [*self._prefix, *map(str, command)]
        return subprocess.run(
            inside, capture_output=True, text=True, check=False, timeout=600, **options
        )

    def imagemill(self, *arguments: str | Path, stdin: str = "") -> Any:
        """A command's JSON, which must end well."""
        program = Path(sys.executable).parent / "imagemill"
        done = self.run(program, *arguments, "--json", input=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return last_json(done)


@pytest.fixture
def machine() -> Iterator[Machine]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    with cable() as found:
        yield Machine(found)


@pytest.fixture
def homes(open_folder: Path, machine: Machine) -> Iterator[tuple[Path, Path]]:
    """The folders of the two machines; both are down at the end."""
    first, second = open_folder / "first", open_folder / "second"
    yield first, second
    if second.exists():
        machine.imagemill("--home", second, "down")
    if first.exists():
        imagemill("--home", first, "down")


@pytest.mark.timeout(1800)
def test_a_machine_joins_with_one_string(
    machine: Machine, homes: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second = homes
    up = ["--home", first, "up", "--workers", "0", "--listen", machine.first, "--json"]
    services = {each["service"]: each for each in last_json(imagemill(*up))["services"]}
    assert services["tunnel"]["address"] == f"{machine.first}:8421 (TLS)"
    token = last_json(imagemill("--home", first, "env", "--join", "--json"))["token"]
    manifest = tmp_path / "prompts.txt"
    manifest.write_text("\n".join(PROMPTS))
    imagemill("--home", first, "submit", manifest, "--size", "64x64", "--steps", "4")

    joined = machine.imagemill(
        *("--home", second, "join", "-", "--workers", "1", "--children", "1"), stdin=token
    )
    assert [each["service"] for each in joined["services"]] == ["tunnel", "worker-1"]
    imagemill("--home", first, "watch", "latest")
    environment = last_json(imagemill("--home", first, "env", "--json"))["environment"]
    images = dataset_images(environment["IMAGEMILL_DATABASE_URL"])
    assert [image["state"] for image in images] == ["done"] * len(PROMPTS)

    # Nothing else of the first machine can be reached, and the joined one has a worker's rights.
    for name in ("postgres", "valkey", "seaweedfs", "flower", "gallery"):
        port = services[name]["address"].strip("/").rpartition(":")[2]
        code = f"import socket; socket.create_connection(({machine.first!r}, {port}), 5)"
        assert machine.run(sys.executable, "-c", code).returncode != 0, name
    known = machine.imagemill("--home", second, "env")["environment"]
    assert "imagemill_worker:" in known["IMAGEMILL_DATABASE_URL"]
    secret = environment["IMAGEMILL_DATABASE_URL"].split(":")[2].partition("@")[0]
    assert secret not in (second / "stack.json").read_text()
    refused = machine.run(
        *(Path(sys.executable).parent / "imagemill", "--home", second, "cancel", "latest")
    )
    assert refused.returncode == 3
    assert "permission denied" in refused.stderr

    # A token of another machine is refused before anything is made.
    wrong = token[:60] + ("A" if token[60] != "A" else "B") + token[61:]
    other = machine.run(
        *(Path(sys.executable).parent / "imagemill", "--home", tmp_path / "third", "join", wrong)
    )
    assert other.returncode in {2, 3}
    assert other.stderr.count("\n") == 1
    assert not (tmp_path / "third").exists()
