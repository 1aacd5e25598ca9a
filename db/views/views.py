"""SQL views for readers: their columns stay the same, so that other programs can rely on them.

An object's `uri` is the store's present address and the object's key. A SQLite database looks
where its own file is, so that a folder with the database and the pictures may be moved.

These are the views of today. Migrations have texts of their own, which stay as they are: whoever
changes a view here adds a migration with the new text, and a test compares the two.
"""

from collections.abc import Mapping
from types import MappingProxyType

from imagemill.db.states import ImageState

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

STORE_ADDRESS: Mapping[str, str] = MappingProxyType(
    {
        "postgresql": "SELECT address FROM store",
        "sqlite": _SQLITE_ADDRESS.replace("$folder", _SQLITE_FOLDER),
    }
)
"""By dialect: the store's present address, or no row where nobody has recorded it yet."""

_SEED: Mapping[str, str] = MappingProxyType(
    {
        "postgresql": "CASE WHEN i.seed < 0 THEN i.seed + 18446744073709551616 ELSE i.seed END",
        # SQLite has no whole numbers from 2**63: such a seed is a text, and so it is exact.
        "sqlite": "CASE WHEN i.seed < 0 THEN printf('%u', i.seed) ELSE i.seed END",
    }
)
"""By dialect: the seed that `seed_column.Seed` stored."""

_TAGS: Mapping[str, str] = MappingProxyType(
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
"""By dialect: an image's tags as a JSON array, sorted."""

_DATASET_IMAGES = """
SELECT
  i.id AS image_id, i.job_id, j.name AS job_name, r.number AS row_number, i.sample_index,
  i.state, o.outcome, i.prompt, i.negative_prompt, $seed AS seed,
  o.object_key, COALESCE(($store_address) || '/' || o.object_key, o.uri) AS uri,
  o.sha256, o.pixels_sha256,
  i.model, m.weights_digest, i.width, i.height, i.steps, i.guidance_scale, i.sampler, i.format,
  i.options, i.request_key, r.key_base AS row_key, r.extras, o.cut AS prompt_cut,
  o.size_bytes, o.seconds, o.created_at, e.fingerprint AS environment,
  c.digest AS composition, i.generation, i.error_code, i.error_message, $tags AS tags
FROM images AS i
JOIN jobs AS j ON j.id = i.job_id
JOIN rows AS r ON r.id = i.row_id
JOIN groups AS g ON g.id = i.group_id
JOIN models AS m ON m.id = g.model_id
LEFT JOIN objects AS o ON o.id = i.object_id
LEFT JOIN environments AS e ON e.id = o.environment_id
LEFT JOIN compositions AS c ON c.id = o.composition_id
"""


DATASET_SCORES = """
SELECT
  s.image_id, i.job_id, j.name AS job_name, s.name, s.value, s.text, s.scorer, s.version,
  s.created_at
FROM scores AS s
JOIN images AS i ON i.id = s.image_id AND i.generation = s.generation
JOIN jobs AS j ON j.id = i.job_id
WHERE i.state = 'done'
"""
"""The query behind the view `dataset_scores`: one line for each score of a present picture."""


def dataset_images(dialect: str) -> str:
    """The query behind the view `dataset_images`: one line for each image."""
    query = _DATASET_IMAGES.replace("$store_address", STORE_ADDRESS[dialect])
    return query.replace("$seed", _SEED[dialect]).replace("$tags", _TAGS[dialect])


_DATASET_JOBS = """
SELECT
  j.id AS job_id, j.name AS job_name, j.state, j.priority, j.route, $seed AS seed,
  j.manifest, j.manifest_sha256, j.defaults, j.rows_loaded, j.bad_rows,
  $counts,
  $labels AS labels, n.text AS note, j.message, j.created_at, j.opened_at, j.finished_at,
  j.owner
FROM jobs AS j
LEFT JOIN job_notes AS n ON n.job_id = j.id
LEFT JOIN (
  SELECT job_id, $sums FROM tallies GROUP BY job_id
) AS t ON t.job_id = j.id
"""


_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "postgresql": "COALESCE((SELECT json_object_agg(l.key, l.value ORDER BY l.key) "
        "FROM job_labels AS l WHERE l.job_id = j.id), '{}')",
        "sqlite": "(SELECT json_group_object(l.key, l.value) "
        "FROM (SELECT * FROM job_labels ORDER BY key) AS l WHERE l.job_id = j.id)",
    }
)
"""By dialect: a job's labels as one JSON object, sorted."""


def dataset_jobs(dialect: str) -> str:
    """The query behind the view `dataset_jobs`: one line for each job, with exact counts."""
    states = [state.value for state in ImageState]
    sums = ["SUM(delta) AS requested"]
    sums += [f"SUM(CASE WHEN state = '{each}' THEN delta ELSE 0 END) AS {each}" for each in states]
    counts = [f"CAST(COALESCE(t.{each}, 0) AS BIGINT) AS {each}" for each in ("requested", *states)]
    query = _DATASET_JOBS.replace("$seed", _SEED[dialect].replace("i.seed", "j.seed"))
    query = query.replace("$labels", _LABELS[dialect])
    return query.replace("$sums", ", ".join(sums)).replace("$counts", ", ".join(counts))


DATASET_FAILURES = """
SELECT
  'image' AS kind, i.job_id, j.name AS job_name, r.number AS row_number, r.key_base AS row_key,
  i.id AS image_id, i.sample_index, i.prompt, i.model, i.error_code, i.error_message,
  a.at AS failed_at,
  CASE
    WHEN r.prompt_at IS NULL THEN r.verbatim
    ELSE substr(r.verbatim, 1, r.prompt_at) || i.prompt || substr(r.verbatim, r.prompt_at + 1)
  END AS verbatim
FROM images AS i
JOIN jobs AS j ON j.id = i.job_id
JOIN rows AS r ON r.id = i.row_id
LEFT JOIN attempts AS a
  ON a.image_id = i.id AND a.generation = i.generation AND a.event = 'dead'
WHERE i.state = 'dead'
UNION ALL
SELECT
  'row', r.job_id, j.name, r.number, r.key_base, NULL, NULL, NULL, NULL, 'manifest', r.problem,
  NULL, r.verbatim
FROM rows AS r
JOIN jobs AS j ON j.id = r.job_id
WHERE r.problem IS NOT NULL
"""
"""The query behind the view `dataset_failures`: dead images, and rows that were refused."""
