"""`imagemill certify --size`: what is no size is refused before a model is loaded."""

import pytest


@pytest.mark.parametrize("size", ["0x0", "64x0", "064x64", "axb", "64", "64x64x64", "9" * 5000])
def test_what_is_no_size_is_one_line(imagemill, size):
    refused = imagemill("certify", "--size", size)
    assert refused.code == 2
    assert refused.err.splitlines()[-1].endswith("allowed: WIDTHxHEIGHT, such as 512x512")
    assert len(refused.err) < 300
