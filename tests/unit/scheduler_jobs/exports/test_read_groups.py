"""How many pictures are read in one go: many small ones, single large ones."""

from typing import Any

from imagemill.scheduler_jobs.exports.export import GROUP_BYTES, GROUP_IMAGES, _read_groups
from imagemill.scheduler_jobs.exports.selection import ExportImage


def image(size: int | None) -> ExportImage:
    values: dict[str, Any] = {"size_bytes": size}
    return ExportImage(values=values, extras={})


def test_a_group_ends_with_its_images_or_with_its_bytes() -> None:
    small = [image(10)] * (GROUP_IMAGES + 1)
    large = [image(GROUP_BYTES)] * 2
    dead = [image(None)]
    lengths = [len(group) for group in _read_groups([*small, *large, *dead])]
    assert lengths == [GROUP_IMAGES, 2, 1, 1]
    assert list(_read_groups([])) == []
