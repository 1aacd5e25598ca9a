"""`imagemill certify`: what can not be tested is refused before a model is loaded."""

import pytest


@pytest.mark.parametrize("size", ["0x0", "64x0", "064x64", "axb", "64", "64x64x64", "9" * 5000])
def test_what_is_no_size_is_one_line(imagemill, size):
    refused = imagemill("certify", "--size", size)
    assert refused.code == 2
    assert refused.err.splitlines()[-1].endswith("allowed: WIDTHxHEIGHT, such as 512x512")
    assert len(refused.err) < 300


@pytest.mark.parametrize(
    ("option", "value", "most"),
    [("--rows", 1001, 1000), ("--rounds", 1001, 1000), ("--slots", 513, 512)],
)
def test_a_count_that_would_not_end_is_refused(imagemill, option, value, most):
    refused = imagemill("certify", option, value)
    assert refused.code == 2
    assert f"'{option}': {value} is not in the range" in refused.err
    assert f"<={most}" in refused.err
