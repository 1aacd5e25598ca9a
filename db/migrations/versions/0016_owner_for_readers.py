"""For readers: whose job it is, as the last column of `dataset_jobs`."""

from alembic import op

from imagemill.db.views.columns import describe_views

revision = "0016"
down_revision = "0015"

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
  $labels AS labels, n.text AS note, j.message, j.created_at, j.opened_at, j.finished_at,
  j.owner
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


def upgrade() -> None:
    """Make the view anew, with one more column; readers of the others notice nothing."""
    connection = op.get_bind()
    dialect = connection.dialect.name
    jobs = _DATASET_JOBS.replace("$seed", _SEED[dialect]).replace("$labels", _LABELS[dialect])
    if dialect == "postgresql":
        # Replaced and not dropped, so that everybody keeps the right to read it.
        op.execute(f"CREATE OR REPLACE VIEW dataset_jobs AS {jobs}")
    else:
        op.execute("DROP VIEW dataset_jobs")
        op.execute(f"CREATE VIEW dataset_jobs AS {jobs}")
    describe_views(connection)
