"""A row's line without its prompt, which the row's images have."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.views.columns import describe_views

revision = "0018"
down_revision = "0017"

_DATASET_FAILURES = """
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


def upgrade() -> None:
    """Add a column, NULL for the rows that are there, and make the view with it."""
    op.add_column("rows", sa.Column("prompt_at", sa.Integer(), nullable=True))
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        # Replaced and not dropped, so that everybody keeps the right to read it.
        op.execute(f"CREATE OR REPLACE VIEW dataset_failures AS {_DATASET_FAILURES}")
    else:
        op.execute("DROP VIEW dataset_failures")
        op.execute(f"CREATE VIEW dataset_failures AS {_DATASET_FAILURES}")
    describe_views(connection)
