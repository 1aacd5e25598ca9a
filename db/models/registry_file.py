"""Writes into the registry file: digests of pulled models, and new entries.

Everything else in the file stays as it is, comments included.
"""

import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import Table

from imagemill.db.errors import ModelError, UsageError
from imagemill.db.models.registry import load_registry
from imagemill.db.real_paths import real_path
from imagemill.db.settings import Settings

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def record_digest(registry_file: Path, name: str, digest: str, *, table: str = "models") -> bool:
    """Write a model's digest into its table of the registry file, unless it has one.

    `table` is `controlnets` or `ip_adapters` for those. Returns whether the file has this digest
    now. It is False if the file has no table `[models.NAME]` to write into, or if it can't be
    written.
    """
    document = tomlkit.parse(registry_file.read_text("utf-8"))
    entry = document.get(table, {}).get(name)
    if not isinstance(entry, Table):
        return False
    if "digest" in entry:
        return bool(entry["digest"] == digest)
    # First in its table: at the end it would follow the comment on the next table.
    entry.value.body.insert(0, (tomlkit.key("digest"), tomlkit.string(digest)))
    written = tomlkit.dumps(document)
    if tomlkit.parse(written)[table][name].get("digest") != digest:
        return False
    try:
        _replace(real_path(registry_file), written)
    except OSError as error:
        log.warning("%s can't be written: %s", registry_file, error.strerror)
        return False
    return True


def check_name(name: str, settings: Settings) -> Path:
    """The registry file, if a new model of that name can be written into it.

    Raises:
        ModelError: the name is taken or not allowed, or the file can't be read.
        UsageError: no registry file is set, or there is no folder for it.
    """
    if settings.models is None:
        raise UsageError(
            "no registry file is set: name the file to write with IMAGEMILL_MODELS=models.toml"
        )
    if _NAME.fullmatch(name) is None:
        raise ModelError(
            f"{name[:60]!r} is no name of a model; allowed: letters, digits and . _ -, at most 100"
        )
    file = real_path(settings.models)
    if not file.parent.is_dir():
        raise UsageError(f"{settings.models}: there is no folder {file.parent}")
    known = load_registry(settings if file.exists() else _without_file(settings)).models
    if name in known:
        raise ModelError(
            f"{name} is registered already; choose another name, or remove its table from "
            f"{settings.models}"
        )
    return file


def add_model(name: str, table: Mapping[str, Any], settings: Settings) -> str:
    """Write a new table `[models.NAME]` at the end of the registry file; return its text.

    A file that is not there is made. Raises `ModelError` if the registry would be wrong with it;
    the file is then as it was.
    """
    file = check_name(name, settings)
    before = file.read_text("utf-8") if file.exists() else ""
    entry = tomlkit.document()
    models = tomlkit.table(is_super_table=True)
    models[name] = _table(table)
    entry["models"] = models
    text = tomlkit.dumps(entry)
    # Appended, not inserted, so that no comment moves. A file whose models are dotted keys or an
    # inline table can't be continued in this way: the check below then refuses it.
    gap = "\n" if before.endswith("\n") else "\n\n" if before else ""
    _replace(file, f"{before}{gap}{text}", check=lambda new: _check(new, settings))
    return text


def _without_file(settings: Settings) -> Settings:
    return settings.model_copy(update={"models": None})


def _check(file: Path, settings: Settings) -> None:
    """Raise `ModelError`, which names the registry file itself, unless `file` is a registry."""
    try:
        load_registry(settings.model_copy(update={"models": file}))
    except ModelError as error:
        said = error.message.replace(str(file), str(settings.models))
        raise ModelError(f"nothing was written: {said}") from None


def _table(values: Mapping[str, Any]) -> Table:
    table = tomlkit.table()
    for key, value in values.items():
        if isinstance(value, Mapping):
            inline = tomlkit.inline_table()
            inline.update(value)
            table[key] = inline
        else:
            table[key] = value
    return table


def _replace(file: Path, text: str, *, check: Callable[[Path], None] | None = None) -> None:
    """Write a complete file; if the disk is full or `check` raises, the old one stays."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        new.write_text(text, "utf-8")
        if check is not None:
            check(new)
        if file.exists():
            shutil.copymode(file, new)
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
