"""Seeds up to 2**64 - 1: the view shows them as they are, while the column stores them signed.

The tables stay as they are. A view's column can't change its type in place on PostgreSQL, so the
view is made anew, and whoever could read it still can.
"""

import sqlalchemy as sa
from alembic import op

from imagemill.db.migrations.dataset_images import dataset_images

revision = "0003"
down_revision = "0002"

_GRANTS = """
SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
       a.privilege_type, a.is_grantable
FROM pg_class AS c, aclexplode(c.relacl) AS a
WHERE c.oid = 'dataset_images'::regclass AND a.grantee != c.relowner
"""
_OTHERS = """
SELECT 1 FROM pg_depend AS d JOIN pg_rewrite AS r ON r.oid = d.objid
WHERE d.refobjid = 'dataset_images'::regclass AND r.ev_class != d.refobjid
"""


def upgrade() -> None:
    """Make the view anew."""
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        op.execute("DROP VIEW dataset_images")
        op.execute(f"CREATE VIEW dataset_images AS {dataset_images('sqlite')}")
        return
    grants = connection.execute(sa.text(_GRANTS)).all()
    if connection.execute(sa.text(_OTHERS)).first() is None:
        op.execute("DROP VIEW dataset_images")
    else:  # somebody's own views read this one: they go on with it under its new name
        op.execute("ALTER VIEW dataset_images RENAME TO dataset_images_0002")
    op.execute(f"CREATE VIEW dataset_images AS {dataset_images('postgresql')}")
    for grantee, privilege, grantable in grants:
        option = " WITH GRANT OPTION" if grantable else ""
        op.execute(f"GRANT {privilege} ON dataset_images TO {grantee}{option}")
