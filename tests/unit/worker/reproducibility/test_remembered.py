"""What a machine remembers of its certificates, and what it does not believe."""

from pathlib import Path

import pytest

from imagemill.worker.reproducibility import remembered_certificates
from imagemill.worker.reproducibility.remembered_certificates import RememberedCertificates

ENVIRONMENT = {"device": "cpu", "shapes": {"slots": 8}}
CERTIFICATE = {"environment": "f" * 64, "holds": True, "seconds": 1.5}


def test_a_certificate_is_found_by_its_environment(tmp_path: Path):
    kept = RememberedCertificates(tmp_path / "new" / "folder")
    assert kept.find(ENVIRONMENT) is None
    kept.keep(ENVIRONMENT, CERTIFICATE)
    assert kept.find(ENVIRONMENT) == CERTIFICATE
    assert RememberedCertificates(tmp_path / "new" / "folder").find(ENVIRONMENT) == CERTIFICATE
    assert kept.find({**ENVIRONMENT, "threads": 2}) is None


def test_other_code_is_tested_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    kept = RememberedCertificates(tmp_path)
    kept.keep(ENVIRONMENT, CERTIFICATE)
    monkeypatch.setattr(remembered_certificates, "_code_digest", lambda: "of another version")
    assert kept.find(ENVIRONMENT) is None


def test_one_that_does_not_hold_is_not_kept(tmp_path: Path):
    kept = RememberedCertificates(tmp_path)
    kept.keep(ENVIRONMENT, CERTIFICATE | {"holds": False})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"holds": false}', '{"holds": 1}', "[" * 30000, " " * 70000]
)
def test_a_file_that_is_none_counts_for_nothing(tmp_path: Path, text: str):
    kept = RememberedCertificates(tmp_path)
    kept.keep(ENVIRONMENT, CERTIFICATE)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert kept.find(ENVIRONMENT) is None


def test_no_folder_is_no_error(tmp_path: Path):
    (tmp_path / "file").touch()
    for nowhere in (RememberedCertificates(None), RememberedCertificates(tmp_path / "file")):
        nowhere.keep(ENVIRONMENT, CERTIFICATE)
        assert nowhere.find(ENVIRONMENT) is None
