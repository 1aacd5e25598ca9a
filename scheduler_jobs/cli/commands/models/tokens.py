"""`tokens`: what a model's text encoder reads of a prompt."""

from collections.abc import Iterator
from pathlib import Path

import click

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.models.components import component_folders
from imagemill.db.models.facts import model_facts
from imagemill.db.models.registry import ModelEntry, load_registry
from imagemill.scheduler_jobs.cli.display import output
from imagemill.scheduler_jobs.cli.display.output import Column, plural
from imagemill.scheduler_jobs.cli.invocation import Invocation, pass_invocation
from imagemill.scheduler_jobs.cli.value_types import AnyText
from imagemill.scheduler_jobs.submit.prompts.prompt_window import PromptWindow, Token

_TOKENIZER = "tokenizer"
_NO_WINDOW = 1 << 31
"""Of a tokenizer whose pipeline decides by itself where it cuts."""


@click.command()
@pass_invocation
@click.argument("prompt", type=AnyText())
@click.option(
    "--model",
    "name",
    metavar="NAME",
    help="The registered model (default: the setting `default_model`).",
)
@output.json_option
def tokens(invocation: Invocation, prompt: str, name: str | None, as_json: bool) -> None:
    """Show how a model's tokenizer reads a prompt.

    The ids and pieces of its tokens, how many the text encoder's window takes, and which part of
    the prompt is cut. Only the tokenizer is loaded. A generic pipeline that does not read with
    CLIP alone decides by itself where it cuts: each of its tokenizers is shown without a window.

    \b
    Example:
      imagemill tokens --model shapes64 "a small red circle"
    """
    entry = load_registry(invocation.settings).find(name or invocation.settings.default_model)
    read = [(part, window, window.tokens(prompt)) for part, window in _windows(entry)]
    if as_json:
        listed = [
            {
                "tokenizer": part,
                "window": _room(window),
                "count": len(found),
                "cut": window.cut(prompt),
                "tokens": found,
            }
            for part, window, found in read
        ]
        output.emit({"model": entry.name, "prompt": prompt, "tokenizers": listed})
        return
    for place, (part, window, found) in enumerate(read):
        if place:
            output.line()
        _print(entry, part, window, found)
        cut = window.cut(prompt)
        if cut is not None:
            output.line(f"cut: {cut}")


def _windows(entry: ModelEntry) -> Iterator[tuple[str, PromptWindow]]:
    """The tokenizers of a model that can be read; a `UsageError` if it has none."""
    facts = model_facts(entry)
    if facts.tokenizer is not None and facts.window is not None:
        yield _TOKENIZER, PromptWindow.from_tokenizer_folder(facts.tokenizer, facts.window)
        return
    folders = {
        part: folder
        for part, (folder, _) in component_folders(entry).items()
        if part.startswith(_TOKENIZER)
    }
    if not folders:
        raise UsageError(f"model {entry.name} has no tokenizer: it takes no text")
    yield from ((part, _readable(entry, folder)) for part, folder in folders.items())


def _readable(entry: ModelEntry, folder: Path) -> PromptWindow:
    try:
        return PromptWindow.from_tokenizer_folder(folder, _NO_WINDOW)
    except ModelError as error:
        raise UsageError(f"model {entry.name}: {error.message}") from None


def _room(window: PromptWindow) -> int | None:
    return window.room if window.room < _NO_WINDOW // 2 else None


def _print(entry: ModelEntry, part: str, window: PromptWindow, found: list[Token]) -> None:
    room = _room(window)
    fits = "its pipeline decides where it cuts"
    if room is not None:
        fits = f"the window takes {room:,}"
        if len(found) > room:
            fits += f"; {plural(len(found) - room, 'token')} cut"
    which = entry.name if part == _TOKENIZER else f"{entry.name}, {part}"
    output.line(f"{which}: {plural(len(found), 'token')}, {fits}")
    if found:
        output.table(
            (
                Column(title="N", right=True),
                Column(title="ID", right=True),
                Column(title="PIECE", whole=True),
                Column(title="TEXT", whole=True),
                Column(title=""),
            ),
            (
                (n, token.token_id, token.piece, token.text, "cut" if token.cut else None)
                for n, token in enumerate(found, 1)
            ),
        )
