"""For readers: views of jobs and failures, comments, and the order in which history becomes known.

A sequence hands out numbers before a transaction ends, so on Postgres a lower id may become visible
after a higher one. `transaction_id` says which transaction wrote a line: once every transaction
before some number is over, no line with a lower number can come any more.
"""

import sqlalchemy as sa
from alembic import op

from imagemill.db.views.columns import describe_views

revision = "0006"
down_revision = "0005"

_SEED = {
    "postgresql": "CASE WHEN j.seed < 0 THEN j.seed + 18446744073709551616 ELSE j.seed END",
    "sqlite": "CASE WHEN j.seed < 0 THEN printf('%u', j.seed) ELSE j.seed END",
}
_LABELS = {
    "postgresql": "COALESCE((SELECT json_object_agg(l.key, l.value ORDER BY l.key) "
    "FROM job_labels AS l WHERE l.job_id = j.id), '{}')",
    "sqlite": "(SELECT json_group_object(l.key, l.value) "
    "FROM (SELECT * FROM job_labels ORDER BY key) AS l WHERE l.job_id = j.id)",
}
_DATASET_JOBS = """
SELECT
  j.id AS job_id, j.name AS job_name, j.state, j.priority, j.route, $seed AS seed,
  j.manifest, j.manifest_sha256, j.defaults, j.rows_loaded, j.bad_rows,
  CAST(COALESCE(t.requested, 0) AS BIGINT) AS requested,
  CAST(COALESCE(t.ready, 0) AS BIGINT) AS ready,
  CAST(COALESCE(t.leased, 0) AS BIGINT) AS leased,
  CAST(COALESCE(t.done, 0) AS BIGINT) AS done,
  CAST(COALESCE(t.dead, 0) AS BIGINT) AS dead,
  CAST(COALESCE(t.cancelled, 0) AS BIGINT) AS cancelled,
  $labels AS labels, n.text AS note, j.message, j.created_at, j.opened_at, j.finished_at
FROM jobs AS j
LEFT JOIN job_notes AS n ON n.job_id = j.id
LEFT JOIN (
  SELECT job_id,
    SUM(delta) AS requested,
    SUM(CASE WHEN state = 'ready' THEN delta ELSE 0 END) AS ready,
    SUM(CASE WHEN state = 'leased' THEN delta ELSE 0 END) AS leased,
    SUM(CASE WHEN state = 'done' THEN delta ELSE 0 END) AS done,
    SUM(CASE WHEN state = 'dead' THEN delta ELSE 0 END) AS dead,
    SUM(CASE WHEN state = 'cancelled' THEN delta ELSE 0 END) AS cancelled
  FROM tallies GROUP BY job_id
) AS t ON t.job_id = j.id
"""
_DATASET_FAILURES = """
SELECT
  'image' AS kind, i.job_id, j.name AS job_name, r.number AS row_number, r.key_base AS row_key,
  i.id AS image_id, i.sample_index, i.prompt, i.model, i.error_code, i.error_message,
  a.at AS failed_at, r.verbatim
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


def upgrade() -> None:
    """Add two views, a column and an index; code that does not know them goes on working."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        # In two steps, so that the table is not written anew: lines from before keep NULL.
        op.execute("ALTER TABLE attempts ADD COLUMN transaction_id xid8")
        op.execute(
            "ALTER TABLE attempts ALTER COLUMN transaction_id SET DEFAULT pg_current_xact_id()"
        )
    else:
        op.execute("ALTER TABLE attempts ADD COLUMN transaction_id INTEGER DEFAULT 0")
    done = sa.text("event = 'done'")
    op.create_index(
        "ix_attempts_done",
        "attempts",
        ["transaction_id", "id"],
        postgresql_where=done,
        sqlite_where=done,
    )
    dialect = connection.dialect.name
    jobs = _DATASET_JOBS.replace("$seed", _SEED[dialect]).replace("$labels", _LABELS[dialect])
    op.execute(f"CREATE VIEW dataset_jobs AS {jobs}")
    op.execute(f"CREATE VIEW dataset_failures AS {_DATASET_FAILURES}")
    describe_views(connection)
