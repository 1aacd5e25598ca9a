"""The view `dataset_images` as migrations 0002, 0003 and 0007 made it. Nothing here changes again.

`views` has what the view is today. A migration that changes a view has its new text in itself, so
that a database migrated step by step goes through the same views whenever that is done.
"""

from collections.abc import Mapping
from types import MappingProxyType

# SQLite says where its file is, but has no function that writes a path as a URL. So the folder is
# walked through letter by letter, and `%` is put before each byte (two hex digits, at most four
# bytes a letter) of what may not stand in a URL as it is.
_SQLITE_FOLDER = """
  WITH RECURSIVE
  place(folder) AS (
    SELECT rtrim(rtrim(file, replace(file, '/', '')), '/')
    FROM pragma_database_list WHERE name = 'main'
  ),
  walk(position, done) AS (
    SELECT 1, ''
    UNION ALL
    SELECT position + 1, done || CASE
      WHEN substr(folder, position, 1) GLOB '[A-Za-z0-9_.~/-]' THEN substr(folder, position, 1)
      ELSE rtrim(
        '%' || substr(hex(substr(folder, position, 1)), 1, 2) ||
        '%' || substr(hex(substr(folder, position, 1)), 3, 2) ||
        '%' || substr(hex(substr(folder, position, 1)), 5, 2) ||
        '%' || substr(hex(substr(folder, position, 1)), 7, 2), '%')
    END
    FROM walk, place WHERE position <= length(folder)
  )
  SELECT done FROM walk ORDER BY position DESC LIMIT 1
"""

_SQLITE_ADDRESS = """
SELECT CASE
  WHEN below_database IS NULL THEN address
  ELSE 'file://' || ($folder) || below_database
END FROM store
"""

_STORE_ADDRESS: Mapping[str, str] = MappingProxyType(
    {
        "postgresql": "SELECT address FROM store",
        "sqlite": _SQLITE_ADDRESS.replace("$folder", _SQLITE_FOLDER),
    }
)
SIGNED_SEED: Mapping[str, str] = MappingProxyType({"postgresql": "i.seed", "sqlite": "i.seed"})
"""By dialect: the seed before 0003."""

SEED: Mapping[str, str] = MappingProxyType(
    {
        "postgresql": "CASE WHEN i.seed < 0 THEN i.seed + 18446744073709551616 ELSE i.seed END",
        # SQLite has no whole numbers from 2**63: such a seed is a text, and so it is exact.
        "sqlite": "CASE WHEN i.seed < 0 THEN printf('%u', i.seed) ELSE i.seed END",
    }
)
"""By dialect: the seed since 0003."""

TAGS: Mapping[str, str] = MappingProxyType(
    {
        "postgresql": """(
  SELECT COALESCE(json_agg(t.tag ORDER BY t.tag COLLATE "C"), '[]')
  FROM tags AS t WHERE t.image_id = i.id
)""",
        "sqlite": """(
  SELECT json_group_array(tag)
  FROM (SELECT t.tag FROM tags AS t WHERE t.image_id = i.id ORDER BY t.tag)
)""",
    }
)
"""By dialect: the tags since 0007."""

_DATASET_IMAGES = """
SELECT
  i.id AS image_id, i.job_id, j.name AS job_name, r.number AS row_number, i.sample_index,
  i.state, o.outcome, i.prompt, i.negative_prompt, $seed AS seed,
  o.object_key, COALESCE(($store_address) || '/' || o.object_key, o.uri) AS uri,
  o.sha256, o.pixels_sha256,
  i.model, m.weights_digest, i.width, i.height, i.steps, i.guidance_scale, i.sampler, i.format,
  i.options, i.request_key, r.key_base AS row_key, r.extras, o.cut AS prompt_cut,
  o.size_bytes, o.seconds, o.created_at, e.fingerprint AS environment,
  c.digest AS composition, i.generation, i.error_code, i.error_message$tags
FROM images AS i
JOIN jobs AS j ON j.id = i.job_id
JOIN rows AS r ON r.id = i.row_id
JOIN groups AS g ON g.id = i.group_id
JOIN models AS m ON m.id = g.model_id
LEFT JOIN objects AS o ON o.id = i.object_id
LEFT JOIN environments AS e ON e.id = o.environment_id
LEFT JOIN compositions AS c ON c.id = o.composition_id
"""


def dataset_images(
    dialect: str, *, seed: Mapping[str, str] = SEED, tags: Mapping[str, str] | None = None
) -> str:
    """The query of the view, with this way to read the seed, and with or without tags."""
    query = _DATASET_IMAGES.replace("$store_address", _STORE_ADDRESS[dialect])
    query = query.replace("$seed", seed[dialect])
    return query.replace("$tags", "" if tags is None else f", {tags[dialect]} AS tags")
