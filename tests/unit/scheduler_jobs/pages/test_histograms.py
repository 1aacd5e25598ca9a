"""Histograms: a bar for each value, ranges for many numbers, nothing where nothing is compared."""

import pytest

from imagemill.scheduler_jobs.pages.histograms import MOST_BARS, extra_histograms, histogram


def test_a_bar_for_each_number_in_order_and_for_each_text_by_count():
    steps = histogram("steps", {30: 1, 10: 5, 20: 2})
    assert [(bar.label, bar.images, bar.value) for bar in steps.bars] == [
        ("10", 5, 10),
        ("20", 2, 20),
        ("30", 1, 30),
    ]
    samplers = histogram("sampler", {"ddim": 1, "euler": 4})
    assert [bar.label for bar in samplers.bars] == ["euler", "ddim"]


@pytest.mark.parametrize("scale", [1e-9, 0.01, 1, 1e12])
def test_many_numbers_become_ranges_with_round_limits_that_count_each_value_once(scale):
    values = {value * scale: 1 + value % 3 for value in range(-7, 94)}
    made = histogram("guidance_scale", values)
    assert 1 < len(made.bars) <= MOST_BARS + 1
    assert sum(bar.images for bar in made.bars) == sum(values.values())
    for before, after in zip(made.bars, made.bars[1:], strict=False):
        assert before.high == after.low
    assert made.bars[0].low <= min(values)
    assert made.bars[-1].high > max(values)


def test_rare_texts_are_counted_together_and_texts_that_are_all_different_are_no_histogram():
    many = histogram("category", {f"c{n:02}": 100 - n for n in range(30)})
    assert len(many.bars) == MOST_BARS
    assert many.others == sum(100 - n for n in range(MOST_BARS, 30))
    assert histogram("name", {f"n{n}": 1 for n in range(100)}) is None
    assert histogram("none", {}) is None


def test_columns_of_a_manifest_count_images_and_leave_out_what_is_no_single_value():
    rows = [({"mood": "calm", "done": True, "list": [1]}, 2), ({"mood": "wild", "done": True}, 1)]
    made = {each.name: each for each in extra_histograms(rows)}
    assert set(made) == {"extras.mood", "extras.done"}
    assert [(bar.label, bar.images) for bar in made["extras.mood"].bars] == [
        ("calm", 2),
        ("wild", 1),
    ]
    assert made["extras.done"].bars[0].label == "yes"
