"""How many worker processes `imagemill run` starts."""

import pytest

from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.local.run import _for_few


@pytest.mark.parametrize(
    ("chosen", "pending", "children"),
    [(None, 1, 1), (None, 8, 1), (None, 9, None), (2, 1, 2)],
)
def test_a_few_images_get_one_child_unless_a_number_is_set(
    chosen: int | None, pending: int, children: int | None
) -> None:
    assert _for_few(Settings.load(children=chosen), pending).children == children
