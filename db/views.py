"""SQL views for readers: their columns stay the same, so that other programs can rely on them."""

DATASET_IMAGES = """
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
"""One line for each image, with its object if it is done."""
