-- Who may do what with the tables. Run by their owner after every `imagemill migrate`; what is not
-- granted here is not allowed, and doing it again changes nothing.
--
--   producer   submits, steers, dispatches, verifies, sweeps and removes: `submit`, `dispatcher`, …
--   worker     claims, renders and records; can't add or change what was asked for
--   reader     reads the views that data-set pipelines rely on, and nothing else

BEGIN;

REVOKE ALL ON ALL TABLES IN SCHEMA public
    FROM imagemill_producer, imagemill_worker, imagemill_reader;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA public
    FROM imagemill_producer, imagemill_worker, imagemill_reader;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO imagemill_producer, imagemill_worker;
-- `imagemill backup` reads everything; a sequence is part of it.
GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO imagemill_producer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO imagemill_producer, imagemill_worker;

-- Both. The history of attempts is append-only for everybody, and so are a worker's counts.
GRANT INSERT ON attempts, tallies TO imagemill_producer, imagemill_worker;
GRANT INSERT, UPDATE ON shifts, workers TO imagemill_producer, imagemill_worker;
-- Where the store is now: whoever opens it says so.
GRANT INSERT, UPDATE ON store TO imagemill_producer, imagemill_worker;

-- What was asked for comes from producers; they also settle jobs, fold counts, and sweep.
GRANT INSERT, UPDATE ON models, groups, jobs, exports TO imagemill_producer;
-- An export that is refused while it is written leaves no entry.
GRANT DELETE ON exports TO imagemill_producer;
GRANT INSERT, UPDATE, DELETE ON rows, images, job_labels, job_notes, job_seats, owners
    TO imagemill_producer;
-- `rm` removes jobs; an image's history goes with it, and in no other way. That jobs were removed is
-- recorded for good; the list of files that are still to be deleted gets shorter.
GRANT DELETE ON jobs TO imagemill_producer;
GRANT INSERT, UPDATE ON removed_jobs TO imagemill_producer;
GRANT INSERT, UPDATE, DELETE ON removed_objects TO imagemill_producer;
GRANT UPDATE, DELETE ON tallies, objects TO imagemill_producer;
-- They let people hear of a job, watch it and tell of it. Addresses of webhooks may be secrets, so
-- workers do not even read them.
GRANT INSERT, UPDATE, DELETE ON job_webhooks, job_watches, notifications TO imagemill_producer;
REVOKE SELECT ON job_webhooks, notifications FROM imagemill_worker;
-- They queue the work of scorers, and tag images.
GRANT INSERT, DELETE ON score_work, tags TO imagemill_producer;

-- The HTTP API: keys are revoked and requests end, but neither is deleted. Workers have no use for
-- either, nor for uploaded files.
GRANT INSERT, UPDATE ON api_keys, api_requests TO imagemill_producer;
GRANT INSERT, DELETE ON api_files TO imagemill_producer;
GRANT INSERT, UPDATE, DELETE ON uploads TO imagemill_producer;
REVOKE SELECT ON api_keys, api_requests, api_files, uploads FROM imagemill_worker;

-- What came out of it comes from workers. They move an image between states: these columns of
-- it, and no other.
GRANT INSERT ON objects, compositions TO imagemill_worker;
-- Locking an object's row while images are given it (FOR KEY SHARE) asks for the right to update
-- some column of it: the one that nothing depends on.
GRANT UPDATE (seconds) ON objects TO imagemill_worker;
GRANT INSERT, UPDATE ON environments, batch_sizes, memory_needs, fastest_precisions TO imagemill_worker;
-- A job that may have so many workers has as many seats; a worker sits down in one.
GRANT UPDATE (shift_id) ON job_seats TO imagemill_worker;
-- Scorers: a piece of work is leased, split after a loss, and deleted with its result.
GRANT INSERT, UPDATE (shift_id, losses), DELETE ON score_work TO imagemill_worker;
GRANT INSERT, UPDATE ON scores TO imagemill_worker;
GRANT INSERT, UPDATE, DELETE ON score_failures TO imagemill_worker;
GRANT UPDATE (
    state, shift_id, begun_at, suspect, failures, not_before, error_code, error_message, object_id,
    outcome
) ON images TO imagemill_worker;

GRANT SELECT ON dataset_images, dataset_scores TO imagemill_reader;
GRANT SELECT ON dataset_jobs, dataset_failures TO imagemill_reader;

COMMIT;
