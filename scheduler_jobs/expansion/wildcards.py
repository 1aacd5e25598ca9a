"""Wildcard files: `__mood__` stands for a line of `mood.txt`, or an option of a YAML file."""

import hashlib
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from imagemill.db.real_paths import real_path
from imagemill.db.utf8 import not_utf8
from imagemill.scheduler_jobs.manifest import BadValue
from imagemill.scheduler_jobs.manifest.problems import shown
from imagemill.scheduler_jobs.manifest.values import check_characters

WILDCARD = re.compile(r"__(?P<name>[~@]?[^\W_*](?:[^\W_]|[ /.*-]|_(?!_))*|[~@]?\*)__")
"""`__name__`, `__folder/name__`, or `__name*__` for every file whose name fits.

A `~` or `@` before the name says how another tool samples; here the job does.
"""

MOST_BYTES = 1 << 24
"""The size of one wildcard file."""

YAML_SUFFIXES = (".yaml", ".yml")


class Wildcards:
    """The wildcard files of one folder, each read once. Nothing outside the folder is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = real_path(folder)
        self._lines: dict[str, tuple[str, ...]] = {}
        self._read_trees: dict[str, list[str]] | None = None

    def lines(self, name: str) -> tuple[str, ...]:
        """A file's lines, without blank ones and comments (`#…`).

        Raises:
            BadValue: no such file, or not one of text lines.
        """
        if name not in self._lines:
            self._lines[name] = self._read(name)
            for line in self._lines[name]:
                check_characters(line)
        return self._lines[name]

    def _read(self, name: str) -> tuple[str, ...]:
        if "*" in name:
            return tuple(line for file in self._matching(name) for line in self.lines(file))
        path = real_path(self._folder / f"{name}.txt")
        in_tree = self._trees.get(name)
        if in_tree is not None:
            if path.is_relative_to(self._folder) and path.is_file():
                raise BadValue(f"wildcard __{name}__ in {name}.txt and in YAML", "one of them")
            return tuple(in_tree)
        if not path.is_relative_to(self._folder) or not path.is_file():
            raise BadValue(
                f"wildcard __{name}__",
                f"a file {shown(name + '.txt')} or a list in a YAML file in {self._folder}",
            )
        if path.stat().st_size > MOST_BYTES:
            raise BadValue(f"wildcard file {name}.txt", f"at most {MOST_BYTES:,} bytes")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            byte, allowed = not_utf8(error)
            raise BadValue(f"{name}.txt: {byte}", allowed) from None
        except OSError as error:
            raise BadValue(
                f"{name}.txt can't be read ({error.strerror})", "a readable file"
            ) from None
        lines = (line.strip() for line in text.split("\n"))
        found = tuple(line for line in lines if line and not line.startswith("#"))
        if not found:
            raise BadValue(f"{name}.txt is empty", "at least one line")
        return found

    def _matching(self, pattern: str) -> list[str]:
        """The names that a pattern fits, in order; never one outside the folder."""
        names = {
            path.relative_to(self._folder).as_posix().removesuffix(".txt")
            for path in self._files(".txt")
        }
        found = sorted(name for name in {*names, *self._trees} if fnmatchcase(name, pattern))
        if not found:
            raise BadValue(f"wildcard __{pattern}__", f"a file that fits it in {self._folder}")
        return found

    def _files(self, *suffixes: str) -> list[Path]:
        """The files with these suffixes, in order; never one outside the folder."""
        return [
            path
            for path in sorted(self._folder.rglob("*"))
            if path.suffix in suffixes
            and real_path(path).is_relative_to(self._folder)
            and path.is_file()
        ]

    @property
    def _trees(self) -> Mapping[str, list[str]]:
        """The options of all YAML files by name, read once."""
        # It imports PyYAML, which every `plan` and `submit` would wait for.
        from imagemill.scheduler_jobs.expansion.wildcard_trees import read_tree  # noqa: PLC0415

        if self._read_trees is None:
            trees: dict[str, list[str]] = {}
            for path in self._files(*YAML_SUFFIXES):
                stem = path.relative_to(self._folder).with_suffix("").as_posix()
                for name, options in read_tree(path, stem).items():
                    if name in trees:
                        raise BadValue(f"wildcard __{name}__ in two YAML files", "one of them")
                    trees[name] = options
            self._read_trees = trees
        return self._read_trees


def fingerprints(folder: Path) -> dict[str, str]:
    """The SHA-256 (hex) of every wildcard file in a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".txt", *YAML_SUFFIXES}
        and path.is_file()
        and path.stat().st_size <= MOST_BYTES
    }
