"""What workers agree on: B of a group, the verdict on an environment."""

from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import update

from imagemill.db.queries.pictures import environments
from imagemill.db.tables import Environment
from tests.helpers.mill import DIGEST


def test_the_first_proposed_batch_size_counts_for_all(mill):
    mill.load("job", ["a"])
    group = mill.group_of(DIGEST)

    def propose(slots: int) -> int:
        return mill.database.run(
            lambda session: environments.agree_on_batch_size(
                session, device="gpu", group_id=group, slots=slots
            )
        )

    with ThreadPoolExecutor(4) as pool:
        agreed = set(pool.map(propose, (8, 16, 4, 2)))
    assert len(agreed) == 1


def test_a_batch_size_only_shrinks(mill):
    mill.load("job", ["a"])
    group = mill.group_of(DIGEST)
    sizes = [
        mill.database.run(
            lambda session, slots=slots: environments.shrink_batch_size(
                session, device="gpu", group_id=group, slots=slots
            )
        )
        for slots in (8, 4, 6)
    ]
    assert sizes == [8, 4, 4]
    with mill.database.reading() as session:
        assert environments.batch_size(session, device="other", group_id=group) is None


def test_a_certificate_is_kept_with_its_environment(mill):
    with mill.database.reading() as session:
        assert environments.certificate(session, mill.environment_id) is None
    mill.database.run(
        lambda session: environments.record_certificate(
            session, mill.environment_id, {"holds": True}
        )
    )
    with mill.database.reading() as session:
        found = environments.certificate(session, mill.environment_id)
    assert found == {"holds": True, "version": environments.CERTIFICATE_VERSION}


def test_a_certificate_of_fewer_tests_is_not_known(mill):
    earlier = {"holds": True}  # as versions before the second recorded it
    mill.database.run(
        lambda session: session.execute(
            update(Environment)
            .where(Environment.id == mill.environment_id)
            .values(certificate=earlier)
        )
    )
    with mill.database.reading() as session:
        assert environments.certificate(session, mill.environment_id) is None
