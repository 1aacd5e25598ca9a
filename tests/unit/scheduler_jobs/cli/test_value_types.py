"""No command takes an empty text for a name, or a number that is none."""

import click
import pytest
from click.types import FloatParamType, StringParamType

from imagemill.scheduler_jobs.cli.command_table import COMMANDS
from imagemill.scheduler_jobs.cli.group import cli
from imagemill.scheduler_jobs.cli.value_types import AnyText

MAY_BE_EMPTY = {
    *(f"{command} parameter_negative_prompt" for command in ("run", "plan", "submit")),
    "note text",
    "tokens prompt",
}
"""What an empty text says something as: no negative prompt, no note, a prompt without words."""


def _parameters():
    for name in COMMANDS:
        command, context = cli, click.Context(cli)
        for word in name.split():
            found = command.get_command(context, word)
            assert found is not None
            command, context = found, click.Context(found)
        for param in command.params:
            yield f"{name} {param.name}", param, context


def _refuses(param, context, value):
    with pytest.raises(click.BadParameter, match=r"empty|finite|not in the range"):
        param.type.convert(value, param, context)
    return True


def test_an_empty_text_is_a_value_of_few_parameters_and_nan_of_none():
    empty = set()
    numbers = 0
    for where, param, context in _parameters():
        if isinstance(param.type, AnyText):
            empty.add(where)
        elif isinstance(param.type, StringParamType | click.Path):
            assert _refuses(param, context, ""), where
        elif isinstance(param.type, FloatParamType | click.FloatRange):
            numbers += 1
            for value in ("nan", "inf", "-inf", "1e400"):
                assert _refuses(param, context, value), where
            assert param.type.convert("1.5", param, context) == 1.5
    assert empty == MAY_BE_EMPTY
    assert numbers >= 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "", "--format", "flat", "--to", "set"), "JOB...': an empty text"),
        (("export", "1", "--format", "flat", "--to", "set", "--name", ""), "'--name': an empty"),
        (("score", "1", "--with", ""), "'--with': an empty text"),
        (("import", ""), "an empty text"),
        (("push", "1", ""), "an empty text"),
        (("query", "SELECT 1", "--timeout", "nan"), "'--timeout': nan is no finite number"),
        (("watch", "1", "--every", "nan"), "'--every': nan is no finite number"),
        (("sweep", "--older-than", "nan"), "'--older-than': nan is no finite number"),
        (("sweep", "--older-than", "1e300"), "1e+300 is not in the range"),
        (("serve", "--wait", "inf"), "'--wait': inf is not in the range"),
        (("notifications", "retry", "9" * 20), "is more than 9223372036854775807"),
        (("images", "1", "--guidance", "nan"), "nan is no finite number"),
    ],
)
def test_what_is_given_wrongly_is_one_line(at_home, arguments, said):
    refused = at_home(*arguments)
    assert refused.code == 2
    assert said in refused.err.splitlines()[-1]
    assert refused.out == ""


def test_an_empty_note_takes_the_note_away(at_home, mill):
    mill.load("job", ["a"])
    at_home("note", "job", "look at the third")
    assert at_home("note", "job", "").code == 0
    assert "look" not in at_home("note", "job").out
