"""The limits of a manifest."""

from dataclasses import dataclass

from imagemill.db.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Upper bounds of a manifest, all inclusive. Each is a setting with the same name."""

    max_pixels: int
    max_steps: int
    max_samples: int
    max_prompt_bytes: int
    max_line_bytes: int
    max_rows: int
    max_guidance_scale: int = 100

    @classmethod
    def from_settings(cls, settings: Settings) -> "Limits":
        """The limits in the settings."""
        return cls(
            max_pixels=settings.max_pixels,
            max_steps=settings.max_steps,
            max_samples=settings.max_samples,
            max_prompt_bytes=settings.max_prompt_bytes,
            max_line_bytes=settings.max_line_bytes,
            max_rows=settings.max_rows,
            max_guidance_scale=settings.max_guidance_scale,
        )
