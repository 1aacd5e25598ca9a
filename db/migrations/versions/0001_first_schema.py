"""The first schema: every table, and the view that data-set pipelines read."""

import sqlalchemy as sa
from alembic import op

from imagemill.db.clock import UtcDateTime, now

revision = "0001"
down_revision = None

_DATASET_IMAGES = """
CREATE VIEW dataset_images AS
SELECT
  i.id AS image_id, i.job_id, j.name AS job_name, r.number AS row_number, i.sample_index,
  i.state, o.outcome, i.prompt, i.negative_prompt, i.seed,
  o.object_key, o.uri, o.sha256, o.pixels_sha256,
  i.model, m.weights_digest, i.width, i.height, i.steps, i.guidance_scale, i.sampler, i.format,
  i.options, i.request_key, r.key_base AS row_key, r.extras, o.cut AS prompt_cut,
  o.size_bytes, o.seconds, o.created_at, e.fingerprint AS environment,
  c.digest AS composition, i.generation, i.error_code, i.error_message
FROM images AS i
JOIN jobs AS j ON j.id = i.job_id
JOIN rows AS r ON r.id = i.row_id
JOIN groups AS g ON g.id = i.group_id
JOIN models AS m ON m.id = g.model_id
LEFT JOIN objects AS o ON o.id = i.object_id
LEFT JOIN environments AS e ON e.id = o.environment_id
LEFT JOIN compositions AS c ON c.id = o.composition_id
"""


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "environments",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("certificate", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environments")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_environments_fingerprint")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("route", sa.String(length=64), server_default="default", nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("defaults", sa.JSON(), nullable=False),
        sa.Column("rows_loaded", sa.BigInteger(), nullable=False),
        sa.Column("bad_rows", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("opened_at", UtcDateTime(), nullable=True),
        sa.Column("finished_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint(
            "state != 'finished' OR finished_at IS NOT NULL", name=op.f("ck_jobs_finished")
        ),
        sa.CheckConstraint(
            "state IN ('loading', 'open', 'paused', 'finished', 'cancelled', 'rejected')",
            name=op.f("ck_jobs_state"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    op.create_index(op.f("ix_jobs_name"), "jobs", ["name"], unique=False)
    op.create_index(
        "uq_jobs_identity_live",
        "jobs",
        ["identity"],
        unique=True,
        postgresql_where=sa.text("state IN ('loading', 'open', 'paused', 'finished')"),
        sqlite_where=sa.text("state IN ('loading', 'open', 'paused', 'finished')"),
    )
    op.create_table(
        "models",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("weights_digest", sa.String(length=64), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("weights_digest", name=op.f("uq_models_weights_digest")),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("route", sa.String(length=64), nullable=False),
        sa.Column("draining", sa.Boolean(), nullable=False),
        sa.Column("started_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("seen_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("stopped_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_index(op.f("ix_workers_name"), "workers", ["name"], unique=False)
    op.create_table(
        "groups",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("model_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name=op.f("fk_groups_model_id_models")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("key", name=op.f("uq_groups_key")),
    )
    op.create_index(op.f("ix_groups_model_id"), "groups", ["model_id"], unique=False)
    op.create_table(
        "compositions",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("request_keys", sa.JSON(), nullable=False),
        sa.Column("image_ids", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_compositions")),
        sa.UniqueConstraint("digest", name=op.f("uq_compositions_digest")),
    )
    op.create_table(
        "objects",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("request_key", sa.String(length=64), nullable=False),
        sa.Column("object_key", sa.Text(), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("pixels_sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("format", sa.String(length=8), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("cut", sa.Text(), nullable=True),
        sa.Column(
            "environment_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column(
            "composition_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True
        ),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.CheckConstraint(
            "outcome IN ('ok', 'truncated_prompt', 'nan', 'blank')", name=op.f("ck_objects_outcome")
        ),
        sa.ForeignKeyConstraint(
            ["composition_id"],
            ["compositions.id"],
            name=op.f("fk_objects_composition_id_compositions"),
        ),
        sa.ForeignKeyConstraint(
            ["environment_id"],
            ["environments.id"],
            name=op.f("fk_objects_environment_id_environments"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_objects")),
        sa.UniqueConstraint("object_key", name=op.f("uq_objects_object_key")),
        sa.UniqueConstraint("request_key", name=op.f("uq_objects_request_key")),
    )
    op.create_table(
        "rows",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("line", sa.BigInteger(), nullable=False),
        sa.Column("key_base", sa.Text(), nullable=True),
        sa.Column("key_occurrence", sa.Integer(), nullable=False),
        sa.Column("verbatim", sa.Text(), nullable=False),
        sa.Column("extras", sa.JSON(), nullable=False),
        sa.Column("template", sa.Text(), nullable=True),
        sa.Column("problem", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_rows_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rows")),
        sa.UniqueConstraint(
            "job_id",
            "key_base",
            "key_occurrence",
            name=op.f("uq_rows_job_id_key_base_key_occurrence"),
        ),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_rows_job_id_number")),
    )
    op.create_index(
        "ix_rows_bad",
        "rows",
        ["job_id", "number"],
        unique=False,
        postgresql_where=sa.text("problem IS NOT NULL"),
        sqlite_where=sa.text("problem IS NOT NULL"),
    )
    op.create_table(
        "shifts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "worker_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False
        ),
        sa.Column("started_at", UtcDateTime(), server_default=now(), nullable=False),
        sa.Column("lease_until", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("end_reason", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(
            ["worker_id"], ["workers.id"], name=op.f("fk_shifts_worker_id_workers")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shifts")),
    )
    op.create_index(
        "ix_shifts_live",
        "shifts",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(op.f("ix_shifts_worker_id"), "shifts", ["worker_id"], unique=False)
    op.create_table(
        "batch_sizes",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("group_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_batch_sizes_group_id_groups")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_batch_sizes")),
        sa.UniqueConstraint("device", "group_id", name=op.f("uq_batch_sizes_device_group_id")),
    )
    op.create_table(
        "images",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("row_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("sample_index", sa.Integer(), nullable=False),
        sa.Column("group_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("request_key", sa.String(length=64), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("negative_prompt", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.Column("guidance_scale", sa.Double(), nullable=False),
        sa.Column("sampler", sa.String(length=64), nullable=False),
        sa.Column("format", sa.String(length=8), nullable=False),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("generation", sa.Integer(), server_default="1", nullable=False),
        sa.Column("shift_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("begun_at", UtcDateTime(), nullable=True),
        sa.Column("suspect", sa.Boolean(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("error_code", sa.String(length=64), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("object_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("outcome", sa.String(length=32), nullable=True),
        sa.CheckConstraint(
            "(state = 'done') = (object_id IS NOT NULL)", name=op.f("ck_images_done_has_object")
        ),
        sa.CheckConstraint(
            "(state = 'done') = (outcome IS NOT NULL)", name=op.f("ck_images_done_has_outcome")
        ),
        sa.CheckConstraint(
            "(state = 'leased') = (shift_id IS NOT NULL)", name=op.f("ck_images_leased_by_shift")
        ),
        sa.CheckConstraint(
            "begun_at IS NULL OR state = 'leased'", name=op.f("ck_images_begun_is_leased")
        ),
        sa.CheckConstraint(
            "state != 'dead' OR error_code IS NOT NULL", name=op.f("ck_images_dead_says_why")
        ),
        sa.CheckConstraint(
            "state IN ('ready', 'leased', 'done', 'dead', 'cancelled')",
            name=op.f("ck_images_state"),
        ),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_images_group_id_groups")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_images_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["object_id"], ["objects.id"], name=op.f("fk_images_object_id_objects")
        ),
        sa.ForeignKeyConstraint(["row_id"], ["rows.id"], name=op.f("fk_images_row_id_rows")),
        sa.ForeignKeyConstraint(
            ["shift_id"], ["shifts.id"], name=op.f("fk_images_shift_id_shifts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_images")),
        sa.UniqueConstraint("row_id", "sample_index", name=op.f("uq_images_row_id_sample_index")),
    )
    op.create_index(
        "ix_images_dead",
        "images",
        ["job_id", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'dead'"),
        sqlite_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "ix_images_failed",
        "images",
        ["job_id", "error_code", "id"],
        unique=False,
        postgresql_where=sa.text("error_code IS NOT NULL"),
        sqlite_where=sa.text("error_code IS NOT NULL"),
    )
    op.create_index(
        "ix_images_flawed",
        "images",
        ["job_id", "outcome", "id"],
        unique=False,
        postgresql_where=sa.text("outcome != 'ok'"),
        sqlite_where=sa.text("outcome != 'ok'"),
    )
    op.create_index(
        "ix_images_object",
        "images",
        ["object_id"],
        unique=False,
        postgresql_where=sa.text("object_id IS NOT NULL"),
        sqlite_where=sa.text("object_id IS NOT NULL"),
    )
    op.create_index("ix_images_job", "images", ["job_id", "id"], unique=False)
    op.create_index(
        "ix_images_leased",
        "images",
        ["shift_id"],
        unique=False,
        postgresql_where=sa.text("state = 'leased'"),
        sqlite_where=sa.text("state = 'leased'"),
    )
    op.create_index(
        "ix_images_ready",
        "images",
        ["job_id", "group_id", "suspect", "not_before", "id"],
        unique=False,
        postgresql_where=sa.text("state = 'ready'"),
        sqlite_where=sa.text("state = 'ready'"),
    )
    op.create_index(
        "ix_images_waiting",
        "images",
        ["request_key"],
        unique=False,
        postgresql_where=sa.text("shift_id IS NULL AND object_id IS NULL"),
        sqlite_where=sa.text("shift_id IS NULL AND object_id IS NULL"),
    )
    op.create_table(
        "tallies",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("job_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("group_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("delta", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_tallies_group_id_groups")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_tallies_job_id_jobs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tallies")),
    )
    op.create_index("ix_tallies_sum", "tallies", ["state", "job_id", "group_id"], unique=False)
    op.create_table(
        "attempts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("image_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("shift_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("event", sa.String(length=16), nullable=False),
        sa.Column("solo", sa.Boolean(), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("at", UtcDateTime(), server_default=now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_attempts_image_id_images")
        ),
        sa.ForeignKeyConstraint(
            ["shift_id"], ["shifts.id"], name=op.f("fk_attempts_shift_id_shifts")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
    )
    op.create_index(op.f("ix_attempts_image_id"), "attempts", ["image_id"], unique=False)
    op.create_table(
        "schema_compatibility", sa.Column("oldest_revision", sa.String(32), nullable=False)
    )
    op.execute("INSERT INTO schema_compatibility (oldest_revision) VALUES ('0001')")
    op.execute(_DATASET_IMAGES)
