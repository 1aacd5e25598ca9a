"""Marks in copies: signatures by a certificate, and a watermark; both are told in the record."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imagemill.db.database import Database
from imagemill.db.errors import UsageError
from imagemill.db.provenance import SOURCE_TYPE
from imagemill.db.queries.pictures.exports import list_exports
from imagemill.db.settings import Settings
from imagemill.db.storage.folder import FolderStorage
from imagemill.scheduler_jobs.exports.export import ExportOptions
from imagemill.scheduler_jobs.exports.marks import watermark
from imagemill.scheduler_jobs.exports.marks.c2pa_signature import C2paSigner
from imagemill.scheduler_jobs.exports.marks.watermark import (
    add_watermark,
    check_text,
    read_watermark,
)
from imagemill.scheduler_jobs.exports.pictures import PictureForm, read_form
from imagemill.scheduler_jobs.exports.run import run_export
from imagemill.scheduler_jobs.exports.selection import Selection
from imagemill.scheduler_jobs.exports.target import FolderTarget, Target, open_target
from tests.helpers.dataset import finished_job
from tests.helpers.mill import Mill
from tests.unit.conftest import CommandLine

TEXT = "my-lab 2026/11"


@pytest.fixture
def mill(sqlite_database: Database) -> Mill:
    return Mill(sqlite_database)


@pytest.fixture
def chain(tmp_path: Path) -> tuple[Path, Path]:
    pytest.importorskip("c2pa")
    pytest.importorskip("cryptography")
    from tests.helpers.certificates import write_chain

    return write_chain(tmp_path)


def export(
    mill: Mill,
    storage: FolderStorage,
    out: Path | Target,
    job: int,
    form: PictureForm,
    export_format: str = "flat",
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    target = FolderTarget(out) if isinstance(out, Path) else out
    run_export(
        mill.database,
        storage,
        target,
        export_format=export_format,
        selection=Selection(jobs=[job]),
        options=ExportOptions(form=form),
        progress=progress,
    )
    record: dict[str, Any] = json.loads(target.read("imagemill_export.json") or b"")
    return record


def manifest(path: Path) -> dict[str, Any]:
    """The active manifest of a picture, checked by C2PA's own reader, without a network."""
    from c2pa import Reader

    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
    with Reader(kinds[path.suffix], io.BytesIO(path.read_bytes())) as reader:
        document = json.loads(reader.json())
    assert document["validation_state"] == "Valid"
    # Nobody trusts the certificate of a test; all else must hold.
    assert {each["code"] for each in document.get("validation_status", [])} <= {
        "signingCredential.untrusted"
    }
    found: dict[str, Any] = document["manifests"][document["active_manifest"]]
    return found


@pytest.mark.parametrize("image_format", [None, "jpeg", "webp"])
def test_signed_copies_are_read_back_by_c2pa(
    mill: Mill,
    folder_storage: FolderStorage,
    tmp_path: Path,
    chain: tuple[Path, Path],
    image_format: str | None,
) -> None:
    job = finished_job(mill, folder_storage, tmp_path, samples=1)
    out = tmp_path / "out"
    signer = C2paSigner.from_files(*chain)
    form = PictureForm(format=image_format, signer=signer)
    record = export(mill, folder_storage, out, job, form)
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 3
    for row in rows:
        path = out / row["file_name"]
        found = manifest(path)
        assert found["signature_info"]["common_name"] == "Signer of a test"
        [action] = found["assertions"][0]["data"]["actions"]
        assert action["action"] == "c2pa.created"
        assert action["digitalSourceType"] == SOURCE_TYPE
        assert action["softwareAgent"]["name"] == "shapes64"
        assert action["parameters"]["imagemill.source_sha256"] == row["source_sha256"]
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert len(path.read_bytes()) < 30_000  # no thumbnails
    assert record["options"]["pictures"]["c2pa"]["algorithm"] == "es256"
    assert "PRIVATE" not in json.dumps(record)
    assert "| signature (C2PA) | es256 |" in (out / "README.md").read_text()


def test_a_changed_picture_is_found_out(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path, chain: tuple[Path, Path]
) -> None:
    job = finished_job(mill, folder_storage, tmp_path, samples=1)
    form = PictureForm(format="jpeg", signer=C2paSigner.from_files(*chain))
    export(mill, folder_storage, tmp_path / "out", job, form)
    path = next((tmp_path / "out").glob("*.jpg"))
    body = bytearray(path.read_bytes())
    body[-10] ^= 1
    path.write_bytes(body)
    with pytest.raises(AssertionError):
        manifest(path)


def test_an_interrupted_signed_export_keeps_what_is_signed(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path, chain: tuple[Path, Path]
) -> None:
    """Signed anew, a picture would have another hash than its metadata say."""
    job = finished_job(mill, folder_storage, tmp_path, samples=2)
    form = PictureForm(signer=C2paSigner.from_files(*chain))
    out = tmp_path / "out"

    class Stopped(Exception):
        pass

    def stop(done: int, _total: int) -> None:
        if done == 3:
            raise Stopped

    with pytest.raises(Stopped):
        export(mill, folder_storage, out, job, form, progress=stop)
    before = {path.name: path.read_bytes() for path in out.glob("*.png")}
    export(mill, folder_storage, out, job, form)
    assert before.items() <= {path.name: path.read_bytes() for path in out.glob("*.png")}.items()
    for line in (out / "metadata.jsonl").read_text().splitlines():
        row = json.loads(line)
        body = (out / row["file_name"]).read_bytes()
        assert row["sha256"] == hashlib.sha256(body).hexdigest()


def test_ed25519_signs_too(tmp_path: Path, chain: tuple[Path, Path]) -> None:
    from tests.helpers.certificates import write_chain

    assert C2paSigner.from_files(*write_chain(tmp_path, elliptic=False)).algorithm == "ed25519"


@pytest.mark.parametrize(
    ("certificates", "key", "said"),
    [
        ("nowhere.pem", "key.pem", "nowhere.pem: No such file"),
        ("chain.pem", "nowhere.pem", "No such file"),
        ("chain.pem", "chain.pem", "expected a private key"),
        ("key.pem", "key.pem", "--c2pa: "),
        ("chain.pem", "other.pem", "--c2pa: "),
    ],
)
def test_what_cannot_sign_is_one_line_before_anything_is_written(
    tmp_path: Path, chain: tuple[Path, Path], certificates: str, key: str, said: str
) -> None:
    from tests.helpers.certificates import write_chain

    (tmp_path / "other").mkdir()
    write_chain(tmp_path / "other", elliptic=False)[1].rename(tmp_path / "other.pem")
    with pytest.raises(UsageError, match=said) as caught:
        read_form(None, None, None, c2pa=(tmp_path / certificates, tmp_path / key))
    assert "\n" not in caught.value.message
    with pytest.raises(UsageError, match="go together"):
        read_form(None, None, None, c2pa=(chain[0], None))


def texture(seed: int, width: int = 320, height: int = 256) -> Image.Image:
    """A picture with the spectrum of photographs: 1/f, in three colours that go together."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = 1
    planes = [
        np.fft.ifft2(np.fft.fft2(random.normal(size=(height, width))) / frequency**1.2).real
        for _ in range(4)
    ]
    pixels = np.stack([planes[0] + 0.5 * plane for plane in planes[1:]], axis=-1)
    pixels = (pixels - pixels.mean()) / pixels.std() * 55 + 128
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def saved(picture: Image.Image, image_format: str, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, image_format, quality=quality)
    return Image.open(buffer).convert("RGB")


def scaled(picture: Image.Image, scale: float) -> Image.Image:
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


@pytest.mark.parametrize("seed", range(5))
def test_a_watermark_is_not_seen_and_survives_what_happens_to_pictures(seed: int) -> None:
    picture = texture(seed)
    assert read_watermark(picture) is None
    marked = add_watermark(picture, TEXT)
    error = np.mean((np.asarray(marked, float) - np.asarray(picture, float)) ** 2)
    assert 10 * np.log10(255**2 / error) > 44
    for changed in (
        marked,
        saved(marked, "JPEG", 90),
        saved(marked, "JPEG", 75),
        saved(marked, "WEBP", 80),
        scaled(marked, 0.5),
        scaled(marked, 1.5),
        saved(scaled(marked, 0.75), "JPEG", 90),
    ):
        assert read_watermark(changed) == TEXT


def test_a_plain_picture_holds_it_too() -> None:
    for colour in ("white", "black", "red", "#808080"):
        marked = add_watermark(Image.new("RGB", (256, 256), colour), "é✓")
        assert read_watermark(saved(marked, "JPEG", 90)) == "é✓"


@pytest.mark.parametrize("text", ["", "x" * 17, "é" * 9, "a\nb", "a\0"])
def test_what_is_no_watermark_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--watermark"):
        check_text(text)


def test_an_export_hides_it_and_the_command_reads_it(
    mill: Mill, tmp_path: Path, sqlite_database: Database
) -> None:
    """Pictures of the fake engine are too small, so copies of the store's are larger ones."""
    command = CommandLine()
    path = tmp_path / "marked.jpg"
    add_watermark(texture(1), TEXT).save(path, quality=90)
    texture(1).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert command("watermark", path).out == f"{path}: {TEXT}\n"
    both = command("watermark", path, tmp_path / "plain.png", "--json")
    assert both.code == 1
    assert [each["watermark"] for each in both.json["watermarks"]] == [TEXT, None]
    for name, said in (("broken.png", "not a PNG"), ("none.png", "no such file")):
        answer = command("watermark", tmp_path / name)
        assert answer.code == 2
        assert said in answer.err


def test_a_small_picture_and_a_grid_are_refused(
    mill: Mill, folder_storage: FolderStorage, tmp_path: Path
) -> None:
    job = finished_job(mill, folder_storage, tmp_path, samples=4)
    form = PictureForm(watermark=TEXT)
    with pytest.raises(UsageError, match="image 1: --watermark: a picture of 64x64 is too small"):
        export(mill, folder_storage, tmp_path / "out", job, form)
    assert not (tmp_path / "out").exists()
    with mill.database.reading() as session:
        assert list_exports(session, limit=9) == []
    with pytest.raises(UsageError, match="--watermark: the format dpg-bench has no use for it"):
        export(mill, folder_storage, tmp_path / "grid", job, form, "dpg-bench")


@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_what_only_the_pixels_tell_leaves_nothing_of_the_export(
    mill: Mill,
    folder_storage: FolderStorage,
    tmp_path: Path,
    place: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [{"prompt": f"p{n}", "width": 128, "height": 128} for n in range(3)]
    job = finished_job(mill, folder_storage, tmp_path, rows, samples=1)
    # Plain black holds the text too, but not in no pass at all.
    monkeypatch.setattr(watermark, "_PASSES", 0)
    target: Target = FolderTarget(tmp_path / "out")
    if place == "bucket":
        url = request.getfixturevalue("s3_storage_url")
        endpoint = request.getfixturevalue("s3_server").endpoint
        target = open_target(f"{url}/out", Settings.load(s3_endpoint_url=endpoint))
    with pytest.raises(UsageError, match=r"image 1: --watermark: .* too much plain black or white"):
        export(mill, folder_storage, target, job, PictureForm(watermark=TEXT))
    assert target.names() == frozenset()
    assert not (tmp_path / "out").exists()
    with mill.database.reading() as session:
        assert list_exports(session, limit=9) == []
