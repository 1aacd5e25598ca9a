"""`docs/manifests.md` says what the code does."""

import re
import tomllib

from imagemill.scheduler_jobs.manifest import Parameters, parameters_from_flags
from imagemill.scheduler_jobs.manifest.formats.detection import FORMATS, SUFFIXES
from imagemill.scheduler_jobs.manifest.formats.prompts.text import (
    A1111_EXTRAS,
    A1111_FIELDS,
    A1111_INERT,
    KOHYA_FIELDS,
)
from tests.unit.manifests import DATA, LIMITS

PAGE = (DATA.parents[1] / "docs" / "manifests.md").read_text(encoding="utf-8")


def rows_of_table(first_heading: str) -> dict[str, str]:
    """First and second cell of every row of the table whose first column is headed so."""
    table = PAGE.partition(f"| {first_heading} |")[2].partition("\n\n")[0]
    rows = (line.strip("|").split("|") for line in table.splitlines()[2:])
    return {row[0].strip(): row[1].strip() for row in rows}


def names(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def test_every_format_and_suffix_is_documented() -> None:
    table = rows_of_table("format")
    assert [cell.strip("`") for cell in table] == list(FORMATS)
    suffixes = {suffix: name for name in FORMATS for suffix in names(table[f"`{name}`"])}
    assert suffixes == dict(SUFFIXES)


def test_every_text_option_is_documented() -> None:
    for flag in {*A1111_FIELDS, *A1111_EXTRAS, *A1111_INERT, *KOHYA_FIELDS}:
        assert f"`--{flag}`" in PAGE


def test_the_limits_are_the_settings_defaults() -> None:
    table = rows_of_table("setting")
    shown = {name.strip("`"): value.replace(",", "") for name, value in table.items()}
    assert shown == {
        f"IMAGEMILL_{name.upper()}": str(getattr(LIMITS, name)) for name in LIMITS.__slots__
    }


def test_the_quoted_findings_are_real() -> None:
    expected = tomllib.loads((DATA / "bad" / "expected.toml").read_text(encoding="utf-8"))
    real = {line for entry in expected.values() for line in entry.get("lines", ())}
    quoted = PAGE.partition("## When something is wrong")[2].split("```")[1].splitlines()[1:]
    assert len(quoted) > 5
    assert set(quoted) <= real


def test_the_toml_example_is_valid() -> None:
    example = PAGE.partition("```toml\n")[2].partition("```")[0]
    parameters = parameters_from_flags(tomllib.loads(example), limits=LIMITS)
    assert parameters == Parameters(
        sampler="dpmpp_2m_karras",
        steps=30,
        width=768,
        height=512,
        negative_prompt="blurry, text",
    )
