"""Whatever bytes arrive: problems, never an exception, never a hang, never much memory."""

import bz2
import gzip
import itertools
import json
import lzma
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagemill.scheduler_jobs.manifest import FORMATS, Limits, ManifestRow, Problem
from imagemill.scheduler_jobs.manifest.sources import lines
from tests.unit.manifests import DATA, GENEVAL, PARTI_PROMPTS, problems, read

MEGABYTE = 1 << 20
SMALL = Limits(
    max_pixels=1 << 24,
    max_steps=1000,
    max_samples=100,
    max_prompt_bytes=2000,
    max_line_bytes=4000,
    max_rows=500,
)
DETERMINISTIC = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    rows = {"prompt": ["a cat", "a dog"] * 20, "steps": [20, 30] * 20, "x": [["a"], None] * 20}
    pq.write_table(pa.table(rows), sink)
    return sink.getvalue().to_pybytes()


def _seeds() -> Iterator[bytes]:
    yield PARTI_PROMPTS.read_bytes()[:3000]
    yield GENEVAL.read_bytes()[:2000]
    yield json.dumps([{"prompt": f"a cat {n}", "seed": n} for n in range(20)]).encode()
    yield b'prompt,seed\n"a ""cat"",\nblack",1\na dog,2\n'
    yield b'--prompt "a cat" --steps 20\na dog --n a cat --d 1,2\n'
    yield _parquet()
    yield gzip.compress(GENEVAL.read_bytes()[:2000], mtime=0)
    yield gzip.compress(_parquet(), mtime=0)
    for path in sorted((DATA / "bad").iterdir()):
        yield path.read_bytes()[:3000]


SEEDS = list(_seeds())
PIECES = [
    b'"', b",", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xfe", b"[", b"]", b"{", b"}",
    b"\\", b" --", b"--prompt ", b"NaN", b"true", b"\xef\xbb\xbf", b"\x1f\x8b", b"PAR1", b"9" * 50,
    b"\xed\xa0\x80", b"\xf0\x9f", b"'", b"prompt", b"[" * 500, b"a" * 4500,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file of some format with a few pieces cut, inserted, doubled or overwritten."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.sampled_from(["cut", "insert", "overwrite", "end", "double"])):
            case "cut":
                del data[at : at + draw(st.integers(1, 50))]
            case "insert":
                data[at:at] = draw(st.sampled_from(PIECES))
            case "overwrite":
                piece = draw(st.binary(min_size=1, max_size=8))
                data[at : at + len(piece)] = piece
            case "end":
                del data[at:]
            case "double":
                data[at:at] = data[max(0, at - 30) : at]
    return bytes(data)


def check(content: bytes, suffix: str, wanted: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"rows{suffix}"
        path.write_bytes(content)
        found = read(path, limits=SMALL, format=wanted)
    assert found, "a file says something, or what is wrong with it is said"
    for item in found:
        if isinstance(item, Problem):
            assert str(item).isprintable()
        else:
            assert item.prompt.strip()
            # What a database must be able to hold.
            json.dumps(dict(item.extras), allow_nan=False).encode()
            (item.prompt + item.verbatim + (item.key or "")).encode()


@DETERMINISTIC
@given(
    content=mutated(),
    suffix=st.sampled_from(["", ".csv", ".tsv", ".jsonl", ".json", ".parquet", ".txt", ".csv.gz"]),
    wanted=st.sampled_from([None, None, *FORMATS]),
)
def test_mutated_files_never_raise(content: bytes, suffix: str, wanted: str | None) -> None:
    check(content, suffix, wanted)


@DETERMINISTIC
@given(content=st.binary(max_size=300), wanted=st.sampled_from([None, *FORMATS]))
def test_random_bytes_never_raise(content: bytes, wanted: str | None) -> None:
    check(content, "", wanted)


@DETERMINISTIC
@given(
    content=st.text(alphabet=st.sampled_from('{}[]",:\\ntrue 1-.\n\t#a'), max_size=200),
    wanted=st.sampled_from(FORMATS),
)
def test_random_punctuation_never_raises(content: str, wanted: str) -> None:
    check(content.encode(), "", wanted)


def test_every_single_cut_of_a_parquet_file_is_reported(tmp_path: Path) -> None:
    whole = _parquet()
    path = tmp_path / "rows.parquet"
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        found = read(path)
        assert isinstance(found[-1], Problem)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda content: pa.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("name", PACKERS)
def test_every_single_cut_of_a_compressed_file_is_reported(name: str, tmp_path: Path) -> None:
    whole = PACKERS[name](PARTI_PROMPTS.read_bytes()[:4000].rpartition(b"\n")[0])
    path = tmp_path / "rows.tsv"
    for end in range(6, len(whole), 11):
        path.write_bytes(whole[:end])
        found = read(path)
        assert f"the {name} stream is truncated" in str(found[-1])
        assert sum(isinstance(item, Problem) for item in found) <= 2


@pytest.mark.parametrize("name", PACKERS)
def test_damage_to_a_compressed_file_is_reported(name: str, tmp_path: Path) -> None:
    whole = bytearray(PACKERS[name](b"".join(b"cat %d\n" % n for n in range(3000))))
    whole[len(whole) // 2 :] = whole[len(whole) // 2 :][::-1]
    path = tmp_path / "rows.txt"
    path.write_bytes(whole)
    assert f"the {name} stream is " in str(read(path)[-1])


def test_a_window_that_takes_much_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    path = tmp_path / "rows.txt.xz"
    path.write_bytes(lzma.compress(b"a cat\n" * 10, filters=filters))
    assert "the xz stream is damaged (Memory usage limit exceeded)" in str(read(path)[-1])


def bomb(path: Path, *, head: bytes, filler: bytes, megabytes: int, tail: bytes = b"") -> Path:
    """A compressed file of a few hundred kilobytes that unpacks to `megabytes`."""
    makers = {".gz": lambda: zlib.compressobj(1, wbits=31), ".bz2": bz2.BZ2Compressor}
    makers |= {".xz": lambda: lzma.LZMACompressor(preset=1)}
    if path.suffix == ".zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(head)
            for _ in range(megabytes):
                stream.write((filler * (MEGABYTE // len(filler) + 1))[:MEGABYTE])
            stream.write(tail)
        return path
    packer = makers[path.suffix]()
    chunk = (filler * (MEGABYTE // len(filler) + 1))[:MEGABYTE]
    with path.open("wb") as stream:
        stream.write(packer.compress(head))
        for _ in range(megabytes):
            stream.write(packer.compress(chunk))
        stream.write(packer.compress(tail) + packer.flush())
    return path


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "head", "filler", "line"),
    [
        ("rows.jsonl.gz", b'{"prompt": "', b"a", "a line of more than 67,108,864 bytes"),
        ("rows.csv.gz", b"prompt\n", b"a", "a line of more than 16,777,216 bytes"),
        ("rows.csv.gz", b'prompt\n"', b"a\n", "a quote that is opened here and never closed"),
        ("rows.json.gz", b"[", b"{[", "more than 10,000 open brackets"),
        ("rows.json.gz", b"[{", b'"a":1,', "an element of more than 16,777,216 characters"),
        ("rows.json.gz", b'["', b"a", "an element of more than 16,777,216 characters"),
        ("rows.txt.gz", b"a\n", b"\n", "more than 100,000 blank lines"),
        ("rows.txt.gz", b"", b"a\n", "more than 10,000 rows"),
        ("rows.csv.bz2", b"prompt\n", b"a", "a line of more than 16,777,216 bytes"),
        ("rows.csv.xz", b"prompt\n", b"a", "a line of more than 16,777,216 bytes"),
        ("rows.json.zst", b"[{", b'"a":1,', "an element of more than 16,777,216 characters"),
        ("rows.txt.zst", b"a\n", b"\n", "more than 100,000 blank lines"),
    ],
)
def test_a_compressed_bomb_is_cut_short(
    name: str,
    head: bytes,
    filler: bytes,
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Most are refused long before 24 MB; to read to the end would take more than is allowed below.
    megabytes = 24
    if "67,108,864" in line:
        megabytes = 80
    else:
        monkeypatch.setattr(lines, "_SKIP_BYTES", 1 << 24)
    path = bomb(tmp_path / name, head=head, filler=filler, megabytes=megabytes)
    assert path.stat().st_size < MEGABYTE
    limits = Limits(
        max_pixels=1 << 24,
        max_steps=1000,
        max_samples=100,
        max_prompt_bytes=2000,
        max_line_bytes=MEGABYTE // 4,
        max_rows=10_000,
    )
    peak, found = _peak_of_last(path, limits)
    assert line in str(found)
    assert peak < 16 * MEGABYTE


def _peak_of_last(path: Path, limits: Limits) -> tuple[int, ManifestRow | Problem]:
    from imagemill.db.settings import Settings
    from imagemill.scheduler_jobs.manifest import open_source, read_manifest

    with open_source(str(path), Settings()) as source:
        tracemalloc.start()
        try:
            last = None
            for last in read_manifest(source, limits=limits):  # noqa: B007 - the last one is meant
                pass
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert last is not None
    return peak, last


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_after_an_over_long_row_reading_goes_on(name: str, tmp_path: Path) -> None:
    long = b"a" * (3 * MEGABYTE)
    content = {
        "rows.jsonl": b'{"prompt": "%s"}\n{"prompt": "a cat"}\n' % long,
        "rows.json": b'[{"prompt": "%s"},\n{"prompt": "a cat"}]' % long,
        "rows.csv": b"prompt\n%s\na cat\n" % long,
        "rows.txt": b"%s\na cat\n" % long,
    }[name]
    path = tmp_path / name
    path.write_bytes(content)
    bad, good = read(path)
    assert isinstance(bad, Problem)
    assert "more than 1,048,576 bytes" in bad.found
    assert isinstance(good, ManifestRow)
    assert (good.prompt, good.number) == ("a cat", 2)


def test_a_long_manifest_is_a_stream(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for n in range(5_000):
            stream.write(b'{"prompt": "cat %d", "seed": %d, "note": "%s"}\n' % (n, n, b"x" * 500))
    peak, last = _peak_of_last(path, SMALL_ROWS)
    assert isinstance(last, ManifestRow)
    assert last.number == 5_000
    assert peak < MEGABYTE


SMALL_ROWS = Limits(
    max_pixels=1 << 24,
    max_steps=1000,
    max_samples=100,
    max_prompt_bytes=2000,
    max_line_bytes=4000,
    max_rows=1_000_000,
)


def test_problems_come_as_they_are_found(tmp_path: Path) -> None:
    from imagemill.db.settings import Settings
    from imagemill.scheduler_jobs.manifest import open_source, read_manifest

    path = tmp_path / "rows.csv"
    path.write_text("prompt,steps\n" + "a cat,x\n" * 1000)
    with open_source(str(path), Settings()) as source:
        first = list(itertools.islice(read_manifest(source, limits=SMALL), 3))
    assert [item.row for item in first if isinstance(item, Problem)] == [1, 2, 3]
    assert len(problems(path)) == 1000
