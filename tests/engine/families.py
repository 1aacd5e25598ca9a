"""Registering a model's folder."""

import json
from pathlib import Path

from imagemill.db.settings import Settings

SETTINGS = {"device": "cpu", "dtype": "fp32"}


def registered(folder: Path, **values: object) -> Settings:
    """Settings whose registry knows the model in `folder` by the folder's name."""
    file = folder.parent / "models.toml"
    lines = [f"[models.{folder.name}]", f'source = "{folder.name}"']
    lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    file.write_text("\n".join(lines) + "\n")
    return Settings.load(models=file, **SETTINGS)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f'"{key}" = {_toml(each)}' for key, each in value.items()) + " }"
    return json.dumps(value)
