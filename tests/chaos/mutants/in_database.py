"""Mistakes in what outlives a process: the statements, the store, and the dispatcher's care."""

from tests.chaos.mutants.mutant import mutant

SHIFT = "tests/unit/worker/shifts/test_shift.py"
DISPATCHER = "tests/unit/scheduler_jobs/test_dispatcher.py"
CLAIMS = "tests/contract/claiming/test_claims.py"
SHIFTS = "tests/contract/claiming/test_shifts.py"
OBJECTS = "tests/contract/pictures/test_objects.py"
JOBS = "tests/contract/jobs/test_jobs.py"
STORAGE = "tests/contract/pictures/test_storage.py"

IN_DATABASE = (
    # Fences and leases, in SQL.
    mutant(
        "the fence does not look at the lease",
        "db/queries/images.py",
        "return and_(in_state(ImageState.LEASED), Image.shift_id == shift_id, live)",
        "return and_(in_state(ImageState.LEASED), Image.shift_id == shift_id)",
        *(CLAIMS, SHIFTS),
    ),
    mutant(
        "the fence does not look at whose image it is",
        "db/queries/images.py",
        "return and_(in_state(ImageState.LEASED), Image.shift_id == shift_id, live)",
        "return and_(in_state(ImageState.LEASED), live)",
        *(CLAIMS, SHIFTS, OBJECTS),
    ),
    mutant(
        "a shift whose lease is over may claim and record",
        "db/queries/images.py",
        "    return found is not None\n",
        "    return True\n",
        *(CLAIMS, OBJECTS),
    ),
    mutant(
        "a lease that is over can be renewed",
        "db/queries/work/shifts.py",
        ".where(Shift.id == shift_id, Shift.ended_at.is_(None), Shift.lease_until > now())\n"
        "        .values(lease_until",
        ".where(Shift.id == shift_id, Shift.ended_at.is_(None))\n        .values(lease_until",
        SHIFTS,
    ),
    mutant(
        "a rescuer that resets the failures",
        "db/queries/work/shifts.py",
        "            failures=Image.failures + charge,",
        "            failures=0,",
        SHIFTS,
    ),
    mutant(
        "a rescuer that suspects nobody",
        "db/queries/work/shifts.py",
        "            suspect=True,",
        "            suspect=Image.suspect,",
        SHIFTS,
    ),
    mutant(
        "a rescuer that takes live leases as over",
        "db/queries/work/shifts.py",
        "or_(literal(everything), Shift.lease_until <= now())",
        "or_(literal(everything), Shift.lease_until.is_not(None))",
        SHIFTS,
    ),
    mutant(
        "a shift that ends without letting go",
        "db/queries/work/shifts.py",
        "    release(session, Image.shift_id == shift_id, shift_id=shift_id)\n    return True",
        "    return True",
        SHIFTS,
    ),
    mutant(
        "suspects come with neighbours",
        "db/queries/work/claims.py",
        "take(job_id=job_id, suspect=True, limit=1)",
        "take(job_id=job_id, suspect=True, limit=limit)",
        *(CLAIMS, SHIFT),
    ),
    mutant(
        "suspects before the other images of their job",
        "db/queries/work/claims.py",
        "        images = images or take(job_id=job_id, suspect=True, limit=1)",
        "        images = take(job_id=job_id, suspect=True, limit=1) or images",
        *(CLAIMS, SHIFT),
    ),
    mutant(
        "a rescuer that charges what had not begun",
        "db/queries/work/shifts.py",
        ".where(held, Image.begun_at.is_not(None))",
        ".where(held)",
        SHIFTS,
    ),
    mutant(
        "a rescuer that charges neighbours",
        "db/queries/work/shifts.py",
        "    charge = case((Image.suspect, 1), else_=0)",
        "    charge = 1",
        SHIFTS,
    ),
    mutant(
        "a failure that never makes dead",
        "db/queries/work/claims.py",
        "Image.failures + charge >= policy.max_failures)\n    row",
        "Image.failures + charge >= 10**9)\n    row",
        CLAIMS,
    ),
    mutant(
        "every failure counts, with neighbours too",
        "db/queries/work/claims.py",
        "    charge = 1 if failure.solo else 0",
        "    charge = 1",
        CLAIMS,
    ),
    # Recording, in SQL.
    mutant(
        "a second object of a request is an error",
        "db/queries/bulk.py",
        "    if unless_there:\n",
        "    if not unless_there:\n",
        OBJECTS,
    ),
    mutant(
        "images of loading and cancelled jobs become done",
        "db/queries/pictures/objects.py",
        "exists().where(Job.id == Image.job_id, Job.state.in_(_FINISHABLE)),",
        "exists().where(Job.id == Image.job_id),",
        *(OBJECTS, JOBS),
    ),
    mutant(
        "a job is finished while images are leased",
        "db/queries/jobs/lifecycle.py",
        "Tally.state.in_((ImageState.READY, ImageState.LEASED))",
        "Tally.state.in_((ImageState.READY,))",
        *(JOBS, DISPATCHER),
    ),
    mutant(
        "folding loses what it adds up",
        "db/queries/tallies.py",
        "sums[job_id, group_id, ImageState(state)] += delta",
        "sums[job_id, group_id, ImageState(state)] = delta",
        DISPATCHER,
    ),
    # The store.
    mutant(
        "412 is taken as created",
        "db/storage/s3.py",
        '                return "taken"',
        '                return "created"',
        STORAGE,
        only="s3",
    ),
    mutant(
        "other bytes under a key are taken as the same",
        "db/storage/s3.py",
        'if head["ContentLength"] != len(body) or there != sha256:',
        'if head["ContentLength"] == -1:',
        STORAGE,
        only="s3",
    ),
    # The dispatcher.
    mutant(
        "the dispatcher rescues nobody",
        "scheduler_jobs/dispatcher.py",
        "rescued = self._database.run(lambda session: shifts.rescue(session, policy=self._policy))",
        "rescued = 0",
        DISPATCHER,
    ),
    mutant(
        "tokens that the broker lost are not replaced",
        "scheduler_jobs/dispatcher.py",
        "                if missing > 0:",
        "                if missing > MIN_TOKENS:",
        DISPATCHER,
    ),
    mutant(
        "the dispatcher dies with the broker",
        "scheduler_jobs/dispatcher.py",
        "        except BrokerError as error:",
        "        except KeyError as error:",
        DISPATCHER,
    ),
)
