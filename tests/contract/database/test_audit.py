"""The audit on trial: whatever is broken by hand, it must say so, and of what."""

import pytest
from sqlalchemy import text

from tests.helpers.mill import CRASH, REFUSED, Mill

SABOTAGE = {
    "a tally is lost": ("I1", "DELETE FROM tallies WHERE state = 'ready' AND delta > 0"),
    "a count is wrong": ("I1", "UPDATE tallies SET delta = delta + 1 WHERE state = 'done'"),
    "a sample is missing": ("I1", "DELETE FROM images WHERE prompt = 'ready' AND sample_index = 0"),
    "a row has no image": (
        "I1",
        "INSERT INTO rows (job_id, number, line, key_occurrence, verbatim, extras)"
        " VALUES (1, 99, 99, 0, '', '{}')",
    ),
    "a job is rejected and kept": ("I1", "UPDATE jobs SET state = 'rejected'"),
    "an object is another's": (
        "I2",
        "UPDATE images SET request_key = 'x' WHERE state = 'done'",
    ),
    "nobody rendered it": ("I2", "DELETE FROM attempts WHERE event = 'done'"),
    "the shift ended": ("I4", "UPDATE shifts SET ended_at = lease_until"),
    "the job never opened": ("I4", "UPDATE jobs SET state = 'loading'"),
    "done twice": (
        "I5",
        "INSERT INTO attempts (image_id, generation, event, solo)"
        " SELECT image_id, generation, event, solo FROM attempts WHERE event = 'done'",
    ),
    "a death without an event": ("I5", "DELETE FROM attempts WHERE event = 'dead'"),
    "it came back to life": (
        "I5",
        "UPDATE images SET state = 'ready' WHERE state = 'dead'",
    ),
    "a generation nobody opened": ("I5", "UPDATE images SET generation = 2 WHERE state = 'ready'"),
    "failures forgotten": ("I5", "UPDATE images SET failures = failures + 1 WHERE state = 'dead'"),
    "a suspect among others": ("I5", "UPDATE images SET suspect = (1 = 0) WHERE state = 'ready'"),
    "cancelled by nobody": ("I5", "UPDATE images SET state = 'cancelled' WHERE state = 'ready'"),
    "finished too early": (
        "I7",
        "UPDATE jobs SET state = 'finished', finished_at = created_at",
    ),
    "it does not say why": ("I8", "UPDATE images SET error_message = '' WHERE state = 'dead'"),
}


@pytest.fixture
def busy(database) -> Mill:
    """One image ready, one leased, one done, one dead, one that failed, two samples each."""
    mill = Mill(database)
    mill.load("job", ["ready", "leased", "failed", "done", "dead"], samples=2)
    shift = mill.shift()
    for image in mill.claim(shift, limit=10):
        match image.spec.prompt:
            case "done":
                mill.complete(shift, [image])
            case "dead":
                mill.fail(shift, image.id, REFUSED)
            case "failed":
                mill.fail(shift, image.id, CRASH)
            case "ready":
                mill.give_back(shift, [image.id])
    return mill


def test_a_sound_database_has_no_violations(busy: Mill) -> None:
    assert busy.audit() == []


@pytest.mark.parametrize("what", SABOTAGE)
def test_what_is_broken_is_found(busy: Mill, what: str) -> None:
    rule, statement = SABOTAGE[what]
    busy.database.run(lambda session: session.execute(text(statement)))
    found = busy.audit()
    assert rule in {violation.rule for violation in found}, found
    assert all(str(violation).startswith(violation.rule) for violation in found)
    assert all("{" not in violation.message for violation in found)
