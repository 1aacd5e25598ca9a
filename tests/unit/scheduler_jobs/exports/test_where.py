"""Conditions: what they take, in SQL's sense of unknown, and what they refuse."""

import pytest

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.where import Condition

VALUES = {
    "steps": 20,
    "guidance_scale": 4.5,
    "prompt": "a red circle",
    "rating": "3",  # as a CSV has it
    "mood": None,
    "nested": {"a": 1},
    "keep": True,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("steps = 20", True),
        ("steps > 20 or guidance_scale >= 4.5", True),
        ("steps <> 20", False),
        ("rating > 2.5 and rating < 10", True),
        ("rating = '3'", True),
        ("rating in (1, 2, 3)", True),
        ("steps between 10 and 20", True),
        ("steps not between 10 and 20", False),
        ("prompt like 'a red%'", True),
        ("prompt like 'A red%'", False),
        ("prompt ilike 'A _ed%'", True),
        ("prompt not like '%blue%'", True),
        ("mood is null", True),
        ("mood is not null", False),
        ("mood = 'calm'", False),
        ("not mood = 'calm'", False),  # unknown stays unknown
        ("mood = 'calm' or steps = 20", True),
        ("not (steps = 1 and mood = 'calm')", True),
        ("nothing = 1", False),
        ("nested = 1", False),
        ("keep", True),
        ("keep = true", True),
        ("not keep", False),
        ("extras.rating = 3", True),
        ('"steps" = 20', True),
        ("guidance_scale > -1", True),
        ("prompt > 5", False),
    ],
)
def test_a_condition_holds_as_in_sql(text: str, holds: bool) -> None:
    assert Condition(text).holds(VALUES) is holds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "steps =",
        "steps = 20; drop table jobs",
        "length(prompt) > 3",
        "steps in (select 1)",
        "exists (select 1)",
        "steps + 1 = 21",
        "steps = 20 union select 1",
        "prompt like steps",
        "steps is 20",
        "case when steps = 1 then true end",
    ],
)
def test_what_is_no_condition_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Condition(text)
    assert "--where" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_it_names_the_columns_that_it_asks_for() -> None:
    assert Condition("a = 1 and (b like 'x%' or c is null)").columns == {"a", "b", "c"}
