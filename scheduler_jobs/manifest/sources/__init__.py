"""Where a manifest's bytes come from, and how they become lines: places, unpacking, limits."""
