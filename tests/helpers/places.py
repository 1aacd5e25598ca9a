"""Where the repository and the tests' data lie, whatever folder a test is in."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"
