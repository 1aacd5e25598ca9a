"""The harness on trial: mistakes planted in a copy of the code, each of which a test must notice.

`python -m tests.chaos.mutants` plants one after the other; see `__main__.py`.
"""

from tests.chaos.mutants.in_database import IN_DATABASE
from tests.chaos.mutants.in_worker import IN_WORKER
from tests.chaos.mutants.mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]

MUTANTS: tuple[Mutant, ...] = (*IN_DATABASE, *IN_WORKER)
