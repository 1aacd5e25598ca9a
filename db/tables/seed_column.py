"""How a seed of 64 bits is stored in a BIGINT."""

from sqlalchemy import BigInteger, Dialect, TypeDecorator

from imagemill.db.seeds import SEED_LIMIT


class Seed(TypeDecorator[int]):
    """A seed in [0, 2**64), in a BIGINT, which has a sign: from 2**63 it is stored less 2**64.

    So the bits are the seed's own, and what older versions stored is read as it was. Readers of
    SQL get the seed itself from the views.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> int | None:
        """The number that the column holds."""
        return value if value is None or value < SEED_LIMIT // 2 else value - SEED_LIMIT

    def process_result_value(self, value: int | None, dialect: Dialect) -> int | None:
        """The seed that a column's number stands for."""
        return None if value is None else value % SEED_LIMIT
