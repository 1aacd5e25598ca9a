"""Text manifests: one prompt on each line, with the options of the tools that wrote them.

- A line that starts with `--` is AUTOMATIC1111's "prompts from file": shell-quoted flags.
- A line with ` --` and a letter in it is kohya's `gen_img`: the prompt, then inline options.
- A line with ` -n4` or another option of one letter is InvokeAI's `from_file`.
- Any other line is a prompt. Blank lines and lines that start with `# ` or `//` are skipped, and
  in a file with kohya's options lines that start with `#`.
- A file with lines that start with `positive:` is the Inspire Pack's (`prompt_blocks`).

These tools ignore unknown options. Here they are errors, because a picture without the option is
not the one that was asked for.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from imagemill.scheduler_jobs.manifest.formats.prompts.blocks import is_blocks, read_blocks
from imagemill.scheduler_jobs.manifest.formats.prompts.infotext import check_no_infotext
from imagemill.scheduler_jobs.manifest.formats.prompts.invoke import (
    BadOption,
    is_invoke,
    read_invoke,
)
from imagemill.scheduler_jobs.manifest.problems import shown
from imagemill.scheduler_jobs.manifest.raw_rows import JSON, BadRow, RawRow
from imagemill.scheduler_jobs.manifest.sources.lines import LONE_RETURN, Line

A1111_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "prompt",
        "negative_prompt": "negative_prompt",
        "sd_model": "model",
        "seed": "seed",
        "sampler_name": "sampler",
        "steps": "steps",
        "cfg_scale": "guidance_scale",
        "width": "width",
        "height": "height",
    }
)
A1111_EXTRAS = frozenset(
    {
        "outpath_samples",
        "outpath_grids",
        "prompt_for_display",
        "do_not_save_samples",
        "do_not_save_grid",
    }
)
"""Flags about files. They change no picture and are kept as extras."""

A1111_INERT: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "styles": frozenset({"", "none"}),
        "subseed": frozenset({"-1"}),
        "subseed_strength": frozenset({"0", "0.0"}),
        "seed_resize_from_h": frozenset({"0", "-1"}),
        "seed_resize_from_w": frozenset({"0", "-1"}),
        "restore_faces": frozenset({"false"}),
        "tiling": frozenset({"false"}),
    }
)
"""Flags that imagemill does not support, and their values without an effect."""

_COUNTS = ("batch_size", "n_iter")
_SAMPLER_INDEX = "sampler_index"

KOHYA_FIELDS: Mapping[str, str] = MappingProxyType(
    {
        "n": "negative_prompt",
        "w": "width",
        "h": "height",
        "s": "steps",
        "d": "seed",
        "l": "guidance_scale",
        "t": "strength",
    }
)
_KOHYA_FILENAME = "f"
_KOHYA_OPTION = re.compile(r" --(?=[A-Za-z])")
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)


def read_text(
    lines: Iterable[Line], *, beginning: str = "", max_line_bytes: int = 1 << 20
) -> Iterator[RawRow | BadRow]:
    """The rows of a text manifest. Its first characters, `beginning`, show which tool wrote it."""
    if is_blocks(beginning):
        yield from read_blocks(lines, max_line_bytes=max_line_bytes)
        return
    bare_comments = any(
        not line.startswith("--") and _KOHYA_OPTION.search(line) for line in beginning.split("\n")
    )
    number = 0
    for line in lines:
        text = line.text.strip()
        if line.bad is None and (not text or _is_comment(text, bare=bare_comments)):
            continue
        number += 1
        if line.bad is not None:
            found, allowed = line.bad
            yield BadRow(number=number, line=line.number, found=found, allowed=allowed)
            continue
        check_no_infotext(text, line=line.number)
        try:
            cells = _cells(text)
        except BadOption as bad:
            yield BadRow(
                number=number,
                line=line.number,
                column=bad.column,
                found=bad.found,
                allowed=bad.allowed,
            )
        else:
            yield RawRow(number=number, line=line.number, verbatim=line.text, cells=cells)


def _is_comment(text: str, *, bare: bool) -> bool:
    return text == "#" or text.startswith(("#" if bare else "# ", "//"))


def _cells(text: str) -> dict[str, JSON]:
    if "\r" in text:
        raise BadOption(None, *LONE_RETURN)
    if re.match(r"--[A-Za-z]", text):
        return _a1111(text)
    if _KOHYA_OPTION.search(text):
        return _kohya(text)
    if is_invoke(text):
        return read_invoke(text)
    return {"prompt": text}


def _a1111(text: str) -> dict[str, JSON]:
    flags = _a1111_flags(text)
    cells: dict[str, JSON] = {}
    counts = [_count(name, flags.pop(name)) for name in _COUNTS if name in flags]
    for name, value in flags.items():
        if name in A1111_FIELDS:
            cells[A1111_FIELDS[name]] = value
        elif name in A1111_EXTRAS:
            cells[name] = value
        elif name in A1111_INERT:
            if value.strip().casefold() not in A1111_INERT[name]:
                inert = " or ".join(sorted(A1111_INERT[name] - {""}))
                raise BadOption(f"--{name}", f"{shown(value)}, which is not supported", inert)
        elif name == _SAMPLER_INDEX:
            raise BadOption(
                f"--{name}", f"{shown(value)}, a place in a list of another tool", "--sampler_name"
            )
        else:
            known = (*A1111_FIELDS, *_COUNTS, *sorted(A1111_EXTRAS), *A1111_INERT)
            raise BadOption(f"--{name}", "an unknown flag", f"one of --{', --'.join(known)}")
    if counts:
        samples = 1
        for count in counts:
            samples *= count
        cells["samples"] = samples
    if "prompt" not in cells:
        raise BadOption("--prompt", "no --prompt among the flags", 'a prompt: --prompt "…"')
    return cells


def _a1111_flags(text: str) -> dict[str, str]:
    """Flags and values. The prompts take all words up to the next flag, other flags one word."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise BadOption(
            None,
            f"{str(error)[:1].lower()}{str(error)[1:]}",
            "shell quoting: a text with a quote goes in double quotes",
        ) from None
    flags: dict[str, str] = {}
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("--"):
            raise BadOption(None, f"{shown(word)} where a flag should be", "a flag: --name value")
        name = word[2:]
        if at + 1 >= len(words):
            raise BadOption(word, "a flag without a value", "--name value")
        if name in flags:
            raise BadOption(word, "a flag given twice", "every flag once")
        end = at + 2
        if name in {"prompt", "negative_prompt"}:
            while end < len(words) and not words[end].startswith("--"):
                end += 1
        flags[name] = " ".join(words[at + 1 : end])
        at = end
    return flags


def _count(name: str, value: str) -> int:
    if not _WHOLE.fullmatch(value) or int(value) < 1:
        raise BadOption(f"--{name}", shown(value), "a whole number of at least 1")
    return int(value)


def _kohya(text: str) -> dict[str, JSON]:
    prompt, *options = _KOHYA_OPTION.split(text)
    cells: dict[str, JSON] = {"prompt": prompt.strip()}
    for option in options:
        name, _, value = option.strip().partition(" ")
        value = value.strip()
        field = KOHYA_FIELDS.get(name.lower())
        if name.lower() == _KOHYA_FILENAME:
            field = "filename"
        if field is None:
            known = ", --".join([*KOHYA_FIELDS, _KOHYA_FILENAME])
            raise BadOption(f"--{name}", "an unknown option", f"one of --{known}")
        if not value:
            raise BadOption(f"--{name}", "an option without a value", "--option value")
        if field == "seed" and "," in value:
            field = "seeds"
        if field in cells:
            raise BadOption(f"--{name}", "an option given twice", "every option once")
        cells[field] = value
    return cells
