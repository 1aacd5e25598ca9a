"""The model and settings that the engine's own tests use."""

from tests.engine.conftest import settings, shapes64, short_first_schedules

__all__ = ["settings", "shapes64", "short_first_schedules"]
