"""Counting what came before: exact, whatever the keys are, in memory that does not grow."""

import random
import subprocess
import sys
from collections import Counter
from contextlib import closing

import pytest

from imagemill.db.errors import DatabaseError
from imagemill.db.settings import Settings
from imagemill.scheduler_jobs.manifest import open_source
from imagemill.scheduler_jobs.submit.planning import occurrences
from imagemill.scheduler_jobs.submit.planning.occurrences import CACHE_KB, Occurrences
from imagemill.scheduler_jobs.submit.planning.planned_rows import RowKeys, plan_rows
from imagemill.scheduler_jobs.submit.request import SubmissionRequest

KEYS = ["a", "A", "a ", "", "id:1", "id:01", "żółć", "z\u0301", "\x00", "\ud800", "🦊"]


@pytest.mark.parametrize("in_memory", [0, 1, 5, 100])
def test_it_counts_as_a_counter_does(monkeypatch, in_memory):
    monkeypatch.setattr(occurrences, "KEYS_IN_MEMORY", in_memory)
    counter: Counter[str] = Counter()
    with closing(Occurrences()) as seen:
        for key in random.Random(7).choices(KEYS, k=2_000):
            assert seen.add(key) == counter[key]
            counter[key] += 1


def test_two_of_them_know_nothing_of_each_other(monkeypatch):
    monkeypatch.setattr(occurrences, "KEYS_IN_MEMORY", 0)
    with closing(Occurrences()) as one, closing(Occurrences()) as other:
        assert (one.add("a"), other.add("a"), one.add("a")) == (0, 0, 1)


def test_a_full_disk_is_one_line(monkeypatch):
    monkeypatch.setattr(occurrences, "KEYS_IN_MEMORY", 0)
    with closing(Occurrences()) as seen:
        seen.add("first")
        seen._file.execute("PRAGMA max_page_count=1")
        with pytest.raises(DatabaseError, match="TMPDIR names a folder with more room"):
            sum(seen.add(f"prompt:{n:064}") for n in range(10_000))


MANY = """
import resource
from imagemill.scheduler_jobs.submit.planning.occurrences import Occurrences
seen = Occurrences()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for n in range(400_000):
    assert seen.add(f"prompt:{n * 2654435761 % 2**32:032x}") == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_its_memory_is_that_of_its_cache():
    """400,000 keys are about 50 MB in a dictionary."""
    command = [sys.executable, "-c", MANY]
    grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 2 * CACHE_KB


def test_where_they_are_counted_changes_no_seed_and_no_prompt(monkeypatch, tmp_path):
    """Equal rows, with and without an `id`, and templates that are drawn from."""
    manifest = tmp_path / "rows.csv"
    rows = [f"{random.Random(n).choice('abc')} {{red|blue|green}} circle" for n in range(60)]
    manifest.write_text("prompt\n" + "\n".join(rows) + "\n")
    request = SubmissionRequest(manifest=str(manifest), variants="sample", draws=2, seed=3)

    def asked_for() -> list[str]:
        settings = Settings()
        with open_source(request.manifest, settings) as source, closing(Occurrences()) as seen:
            planned = list(plan_rows(request, source, settings))
            good = list(RowKeys(seen.add).checked(planned, source.name))
            return [each.keys()[0] for row in good for each in row.requests(request.seed)]

    in_memory = asked_for()
    monkeypatch.setattr(occurrences, "KEYS_IN_MEMORY", 0)
    assert asked_for() == in_memory
    assert len(set(in_memory)) > len(set(rows))
