#!/bin/sh
# The roles of imagemill, made by the superuser when the database is made. The postgres image runs
# it from /docker-entrypoint-initdb.d; on a managed Postgres, run it once by hand with the same
# variables. Doing it again sets the passwords again. What each role may do: grants.sql.
set -eu

psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
\getenv owner_password OWNER_PASSWORD
\getenv producer_password PRODUCER_PASSWORD
\getenv worker_password WORKER_PASSWORD
\getenv reader_password READER_PASSWORD

-- No statement below reaches the log with a password in it.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';

SELECT format('CREATE ROLE %I', name)
FROM unnest(ARRAY[
    'imagemill_owner', 'imagemill_producer', 'imagemill_worker', 'imagemill_reader'
]) AS name
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name)
\gexec

ALTER ROLE imagemill_owner LOGIN PASSWORD :'owner_password';
ALTER ROLE imagemill_producer LOGIN PASSWORD :'producer_password';
ALTER ROLE imagemill_worker LOGIN PASSWORD :'worker_password';
ALTER ROLE imagemill_reader LOGIN PASSWORD :'reader_password';

-- A reader's forgotten query must not hold back the clean-up of tables that change all the time.
ALTER ROLE imagemill_reader SET default_transaction_read_only = on;
ALTER ROLE imagemill_reader SET statement_timeout = '10min';
ALTER ROLE imagemill_reader SET idle_in_transaction_session_timeout = '1min';

SELECT format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database()) \gexec
SELECT format(
    'GRANT CONNECT ON DATABASE %I TO imagemill_owner, imagemill_producer, imagemill_worker, '
    'imagemill_reader', current_database()) \gexec
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO imagemill_producer, imagemill_worker, imagemill_reader;
GRANT USAGE, CREATE ON SCHEMA public TO imagemill_owner;
SQL
