"""Keys of the HTTP API, what was asked for over it, and uploaded files."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.clock import UtcDateTime, now

revision = "0011"
down_revision = "0010"

_STATES = (
    *("validating", "failed", "in_progress", "completed", "cancelling", "cancelled", "expired"),
)


def upgrade() -> None:
    """Add three tables; code that does not know them goes on working."""
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "api_keys",
        sa.Column("id", number, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("images_a_day", sa.BigInteger(), nullable=True),
        sa.Column("open_images", sa.BigInteger(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("name", name=op.f("uq_api_keys_name")),
        sa.UniqueConstraint("hash", name=op.f("uq_api_keys_hash")),
    )
    times = ("expires_at", "loaded_at", "cancelling_at", "ended_at")
    words = ", ".join(repr(word) for word in _STATES)
    op.create_table(
        "api_requests",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=255), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("images", sa.BigInteger(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=True),
        sa.Column("refused", sa.JSON(), nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("counts", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        *(sa.Column(name, UtcDateTime(), nullable=True) for name in times),
        sa.CheckConstraint(f"state IN ({words})", name=op.f("ck_api_requests_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_requests")),
        sa.UniqueConstraint(
            "owner", "idempotency_key", name=op.f("uq_api_requests_owner_idempotency_key")
        ),
    )
    op.create_index("ix_api_requests_day", "api_requests", ["owner", "created_at"])
    op.create_index("ix_api_requests_state", "api_requests", ["state", "id"])
    op.create_index(op.f("ix_api_requests_job_id"), "api_requests", ["job_id"])
    op.create_table(
        "api_files",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.String(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_files")),
    )
    op.create_index("ix_api_files_owner", "api_files", ["owner", "id"])
