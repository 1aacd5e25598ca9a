"""WebDataset's tar headers are made without `tarfile`, and are the same bytes."""

import tarfile

import pytest

from imagemill.scheduler_jobs.exports.layouts.webdataset import _header


@pytest.mark.parametrize("name", ["000000000.png", "99999123456.json", "x" * 100])
@pytest.mark.parametrize("size", [0, 8, 511, 8005, 8**11 - 1])
def test_a_header_is_that_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size = size
    assert _header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)
