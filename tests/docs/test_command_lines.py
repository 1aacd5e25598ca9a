"""Every command line in the documents is one that imagemill takes."""

import click
import pytest

from imagemill.scheduler_jobs.cli import cli
from tests.docs.command_lines import PAGES, CommandLine, in_blocks, in_text

WRITTEN = [line for page in PAGES for line in in_blocks(page)]
NAMED = [line for page in PAGES for line in in_text(page)]
GLOBAL = {"--home": 1, "--config": 1, "--verbose": 0, "--help": 0, "--json": 0}


def command_of(line: CommandLine) -> tuple[click.Context, click.Command, list[str]]:
    """The command that a line calls, the context it is called in, and the words after its name."""
    context: click.Context = click.Context(cli, info_name="imagemill", **cli.context_settings)
    command: click.Command = cli
    words = list(line.words)
    while words and words[0] in GLOBAL:
        del words[: 1 + GLOBAL[words[0]]]
    while isinstance(command, click.Group) and words:
        inner = command.get_command(context, words[0])
        if inner is None:
            break
        context = click.Context(inner, info_name=words[0], parent=context)
        command = inner
        del words[0]
    return context, command, words


@pytest.mark.parametrize("line", dict.fromkeys(WRITTEN), ids=str)
def test_a_line_of_a_block_is_taken(line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    # The files of the examples are not here.
    monkeypatch.setattr(
        click.Path, "convert", lambda self, value, *_: self.coerce_path_result(value)
    )
    context, command, words = command_of(line)
    assert command is not cli or not words, f"{line} calls no command"
    if command is not cli and "--help" not in words:
        command.make_context(command.name, words, parent=context.parent)


@pytest.mark.parametrize("line", dict.fromkeys(NAMED), ids=str)
def test_a_line_of_the_text_names_a_command_and_its_options(line: CommandLine) -> None:
    _, command, words = command_of(line)
    if command is cli:
        assert words[:1] in ([], ["COMMAND"]), f"{line} calls no command"
        return
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    given = {
        word.partition("=")[0].strip("[]") for word in words if word.strip("[").startswith("--")
    }
    assert given - known - set(GLOBAL) == set()


def test_lines_are_found() -> None:
    assert len(set(WRITTEN)) > 150
    assert len(set(NAMED)) > 80
