"""kohya's sample prompts in TOML, and other TOML, which is refused."""

from pathlib import Path

import pytest

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import Limits, ManifestRow, Problem, Source, read_manifest

SAMPLES = """
[prompt]
width = 64
height = 128
scale = 7.5
sample_steps = 28
mood = "calm"
share = nan

[[prompt.subset]]
prompt = "a red circle, 赤い円"
seed = 1

[[prompt.subset]]
prompt = "a blue star"
negative_prompt = "blurry"
width = 128
taken = 2026-11-30
"""


def read(
    tmp_path: Path, body: str | bytes, name: str = "samples.toml"
) -> list[ManifestRow | Problem]:
    file = tmp_path / name
    file.write_bytes(body.encode() if isinstance(body, str) else body)
    limits = Limits.from_settings(Settings())
    return list(read_manifest(Source(name=name, path=file), limits=limits))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_subset_is_a_row_over_what_holds_for_all(tmp_path: Path, mark: bytes) -> None:
    first, second = read(tmp_path, mark + SAMPLES.encode())
    assert isinstance(first, ManifestRow)
    assert isinstance(second, ManifestRow)
    given = first.parameters
    assert (first.prompt, given.seed, given.steps) == ("a red circle, 赤い円", 1, 28)
    assert (given.width, given.height, given.guidance_scale) == (64, 128, 7.5)
    assert first.extras == {"mood": "calm", "share": None}
    assert (second.parameters.width, second.parameters.negative_prompt) == (128, "blurry")
    assert second.extras["taken"] == "2026-11-30"
    assert '"prompt": "a blue star"' in second.verbatim


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("[prompt]\nwidth = 64\n", "a table [prompt] without [[prompt.subset]]"),
        ('prompt = "a red circle"\n', 'TOML with the keys "prompt"'),
        ("[general]\n[[datasets]]\n", 'TOML with the keys "general", "datasets"'),
        ("[prompt]\nsubset = []\n", "no [[prompt.subset]]"),
        ("[prompt\n", "not TOML: "),
        ("# nothing\n", "TOML without keys"),
        (b'[prompt]\nmood = "\xe9"\n', "byte 0xe9 at offset 17 (line 2) is not UTF-8"),
        ("a = " + "[" * 100_000, "not TOML: "),
        ("a = " + "9" * 5_000, "a number of thousands of digits; one of fewer digits"),
    ],
)
def test_other_toml_is_refused_in_one_line(tmp_path: Path, body: str | bytes, found: str) -> None:
    (problem,) = read(tmp_path, body)
    assert isinstance(problem, Problem)
    assert found in str(problem)
    assert "\n" not in str(problem)


def test_bad_subsets_are_problems_of_their_own(tmp_path: Path) -> None:
    body = '[prompt]\n[[prompt.subset]]\nprompt = 5\n[[prompt.subset]]\nprompt = "a"\n'
    bad, good = read(tmp_path, body)
    assert isinstance(bad, Problem)
    assert str(bad) == "samples.toml:1: prompt: 5; a text"
    assert isinstance(good, ManifestRow)


def test_a_row_over_the_limit_is_skipped(tmp_path: Path) -> None:
    long = f'[prompt]\n[[prompt.subset]]\nprompt = "a"\nnote = "{"x" * 2_000_000}"\n'
    bad, good = read(tmp_path, long + '[[prompt.subset]]\nprompt = "b"\n')
    assert isinstance(bad, Problem)
    assert "a row of more than" in bad.found
    assert isinstance(good, ManifestRow)
