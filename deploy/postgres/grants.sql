-- Who may do what with the tables. Run by their owner after every `imagemill migrate`; what is not
-- granted here is not allowed, and doing it again changes nothing.
--
--   producer   submits, steers, dispatches, verifies and sweeps: `submit`, `dispatcher`, …
--   worker     claims, renders and records; can't add or change what was asked for
--   reader     reads the views that data-set pipelines rely on, and nothing else

BEGIN;

REVOKE ALL ON ALL TABLES IN SCHEMA public
    FROM imagemill_producer, imagemill_worker, imagemill_reader;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public
    FROM imagemill_producer, imagemill_worker, imagemill_reader;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO imagemill_producer, imagemill_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO imagemill_producer, imagemill_worker;

-- Both. The history of attempts is append-only for everybody.
GRANT INSERT ON attempts TO imagemill_producer, imagemill_worker;
GRANT INSERT, UPDATE, DELETE ON tallies TO imagemill_producer, imagemill_worker;
GRANT INSERT, UPDATE ON shifts, workers, environments, batch_sizes
    TO imagemill_producer, imagemill_worker;
GRANT INSERT, UPDATE ON objects TO imagemill_worker;

-- What was asked for comes from producers.
GRANT INSERT, UPDATE ON models, groups, jobs TO imagemill_producer;
GRANT INSERT, UPDATE, DELETE ON rows, images, objects TO imagemill_producer;

-- A worker moves an image between states and finishes a job: these columns, and no other.
GRANT UPDATE (
    state, shift_id, begun_at, suspect, failures, not_before, error_code, error_message, object_id
) ON images TO imagemill_worker;
GRANT UPDATE (state, finished_at) ON jobs TO imagemill_worker;

GRANT SELECT ON dataset_images TO imagemill_reader;

COMMIT;
