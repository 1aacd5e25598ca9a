"""Conditions: what they take, in SQL's sense of unknown, and what they refuse."""

from datetime import UTC, datetime

import pytest

from imagemill.db.errors import UsageError
from imagemill.scheduler_jobs.exports.selection import ExportImage, SeenNames
from imagemill.scheduler_jobs.exports.where import Condition

VALUES = {
    "steps": 20,
    "guidance_scale": 4.5,
    "prompt": "a red circle",
    "rating": "3",  # as a CSV has it
    "mood": None,
    "nested": {"a": 1},
    "keep": True,
    "created_at": datetime(2026, 11, 30, 3, 16, tzinfo=UTC),
    "when": "2026-11-29",
    "seed": 7,
    "approved": "TRUE",  # as a CSV has it
    "refused": "false",
    "bright": 1,
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
        ("approved", True),
        ("approved = true", True),
        ("refused = true", False),
        ("not refused and bright", True),
        ("keep = 'true'", True),
        ("mood", False),
        ("extras.rating = 3", True),
        ('"steps" = 20', True),
        ("guidance_scale > -1", True),
        ("prompt > 5", False),
        ("created_at > '2026-11-30'", True),
        ("created_at >= '2026-12-01'", False),
        ("created_at < '2026-11-30T03:17'", True),
        ("created_at < '2026-11-30T04:10+01:00'", False),
        ("created_at between '2026-11-30' and ('2026-12-01')", True),
        ("'2026-11-30' < created_at", True),
        ('created_at > "when"', True),
        ("created_at > prompt", False),  # a text that is no time: unknown
        ("created_at > steps", False),
        ("created_at > mood", False),
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
        "created_at > 'yesterday'",
        "created_at > 5",
        "nested.seed = 7",
        "steps === 20",
        "when > '2026-11-28'",
        "prompt = 'a red circle",
        "(" * 2000 + "steps = 1" + ")" * 2000,
        "not " * 3000 + "steps = 1",
    ],
    ids=lambda text: text[:40],
)
def test_what_is_no_condition_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Condition(text)
    assert "--where" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)
    assert "sqlglot" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps = null", "nothing compares with null; write steps is null"),
        ("not null <> mood", "nothing compares with null; write mood is not null"),
        ("steps in (20, null)", "nothing compares with null; write steps is null"),
        ("steps between null and 3", "nothing compares with null; write steps is null"),
        ("'steps' = 20", "'steps' and 20 are no columns; a column stands without quotes"),
        ("steps = 20 or 1 = 1", "1 and 1 are no columns; a column stands without quotes"),
        ("steps = (steps)", "steps is compared with itself"),
        ("steps = 'many'", "steps is a number, and 'many' is none"),
        ("'2O' < seed", "seed is a number, and '2O' is none"),
        ("steps between 30 and 20", "nothing is between 30 and 20; the smaller one comes first"),
        ("steps not between 5 and -5", "nothing is between 5 and -5; the smaller one comes first"),
        (
            "format = 'jpg'",
            "format is never 'jpg'; it is one of png, jpeg, webp; did you mean jpeg?",
        ),
        (
            "outcome in ('ok', 'black')",
            "outcome is never 'black'; it is one of ok, truncated_prompt, nan, blank; "
            "did you mean blank?",
        ),
        ("sampler = 'Euler a'", "the sampler 'Euler a' is called 'euler_a' here"),
        ("tags = 'keep'", "tags holds all tags of an image; write tag = 'keep'"),
        ("steps", "steps alone is no condition; compare it, or write steps is not null"),
        ("not tag", "tag alone is no condition; compare it, or write tag is not null"),
    ],
)
def test_a_comparison_that_can_not_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        Condition(text)
    assert str(refused.value) == f"--where {text!r}: {said}"


@pytest.mark.parametrize(
    "text",
    ["steps = '20'", "format <> 'png'", "sampler = 'euler_a'", "extras.steps = 'many'", "tag = 5"],
)
def test_what_may_be_true_is_left_alone(text: str) -> None:
    """Making a condition raises for what can never be true."""
    assert len(Condition(text).columns) == 1


def test_a_column_that_is_no_truth_value_is_no_condition() -> None:
    with pytest.raises(UsageError, match="when is '2026-11-29', which is not true or false"):
        Condition('"when"').holds(VALUES)


def test_it_names_the_columns_that_it_asks_for() -> None:
    assert Condition("a = 1 and (b like 'x%' or c is null)").columns == {"a", "b", "c"}


def test_a_refusal_says_where_and_how_to_go_on() -> None:
    with pytest.raises(UsageError, match=r"can't be read at 'when' \(character 4\).*double ones"):
        Condition("when > '2026-11-28'")
    with pytest.raises(UsageError, match="'yesterday' is none; write '2026-12-24'"):
        Condition("created_at > 'yesterday'")


def test_it_names_the_columns_in_the_place_of_values() -> None:
    condition = Condition('mood = calm and (steps = 20 or mood in (sad, "odd", 1)) and a < (b)')
    assert condition.operands == {"calm", "sad", "odd", "b"}


def test_an_unknown_name_leads_to_the_nearest_one_or_to_quotes() -> None:
    seen = SeenNames()
    seen.add(ExportImage(values={}, extras={"mood": "calm"}))
    with pytest.raises(UsageError, match=r"'moood'; did you mean mood\? there are "):
        seen.check_condition(Condition("moood = 'calm'"))
    with pytest.raises(UsageError, match="write it in single quotes: 'calm'"):
        seen.check_condition(Condition("mood = calm"))
