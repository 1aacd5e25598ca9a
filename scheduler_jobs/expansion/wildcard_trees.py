"""YAML files of wildcards: `art: {mood: [calm, wild]}` has the options of `__art/mood__`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from imagemill.db.utf8 import not_utf8
from imagemill.scheduler_jobs.manifest import BadValue
from imagemill.scheduler_jobs.manifest.problems import shown

MOST_BYTES = 1 << 22
"""The size of one YAML file."""
_DEEPEST = 20
_LISTS = "lists of texts under names"

_Loader: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_tree(path: Path, name: str) -> dict[str, list[str]]:
    """The options of a YAML file by the names of its wildcards, `art/mood`.

    A list that stands under no name has the file's, `name`. Every value is a text here: `yes`
    and `1.0` are words of a prompt.

    Raises:
        BadValue: the file is too large or no YAML, or holds something else than lists of texts.
    """
    if path.stat().st_size > MOST_BYTES:
        raise BadValue(f"wildcard file {path.name}", f"at most {MOST_BYTES:,} bytes")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return _options(yaml.parse(text, Loader=_Loader), path.name, name)
    except UnicodeDecodeError as error:
        found, allowed = not_utf8(error)
        raise BadValue(f"{path.name}: {found}", allowed) from None
    except OSError as error:
        raise BadValue(f"{path.name} can't be read ({error.strerror})", "a readable file") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise BadValue(f"{path.name} is no YAML ({_reason(error)})", _LISTS) from None


def _options(events: Iterable[yaml.Event], file: str, name: str) -> dict[str, list[str]]:
    """Every list of a document under its path of names.

    Events and not yaml.load: that follows aliases, which may stand for a list a billion times,
    and its C code recurses until the process ends.
    """
    found: dict[str, list[str]] = {}
    names: list[str | None] = []
    """The name that is open in each mapping around; None where one is to come."""
    in_list = False
    for event in events:
        match event:
            case yaml.AliasEvent():
                raise BadValue(f"{file}: an alias, *{event.anchor}", "lists without aliases")
            case yaml.ScalarEvent() if names and names[-1] is None and not in_list:
                names[-1] = event.value
            case yaml.ScalarEvent():
                options = found.setdefault("/".join(filter(None, names)) or name, [])
                options += filter(None, [event.value.strip()])
                if names and not in_list:
                    names[-1] = None
            case yaml.MappingStartEvent() if not in_list and _may_begin(names):
                if len(names) >= _DEEPEST:
                    raise BadValue(f"{file} nested more than {_DEEPEST} deep", "a flatter file")
                names.append(None)
            case yaml.SequenceStartEvent() if not in_list and _may_begin(names):
                in_list = True
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                path = "/".join(filter(None, names)) or name
                raise BadValue(f"{file}: {shown(path)} is no list of texts", _LISTS)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                del names[len(names) - (not in_list) :]
                in_list = False
                names[-1:] = [None] * bool(names)
    return {path: options for path, options in found.items() if options}


def _may_begin(names: list[str | None]) -> bool:
    """Whether a list or a mapping may stand here: at the top, or under a name."""
    return not names or names[-1] is not None


def _reason(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}" if mark is not None else type(error).__name__
