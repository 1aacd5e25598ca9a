"""Mistakes in what a worker does: its recorder, its lease, its shifts, and how it stops."""

from tests.chaos.mutants.mutant import mutant

SHIFT = "tests/unit/worker/shifts/test_shift.py"
GROUP_RUN = "tests/unit/worker/shifts/test_group_run.py"
RECORDING = "tests/unit/worker/shifts/test_recording.py"
LEASE = "tests/unit/worker/shifts/test_lease.py"
DRAIN = "tests/unit/worker/process/test_drain.py"

IN_WORKER = (
    # The recorder.
    mutant(
        "commit without PUT",
        "worker/shifts/recorder.py",
        "            self._put(image, key, encoded)\n",
        "",
        *(RECORDING, SHIFT),
    ),
    mutant(
        "commit before PUT",
        "worker/shifts/recorder.py",
        "            self._put(image, key, encoded)\n",
        "            threading.Timer(0.5, self._put, [key, encoded]).start()\n",
        RECORDING,
    ),
    mutant(
        "a refusal of the store is tried again and again",
        "worker/shifts/recorder.py",
        "if not error.retryable or self._stopping",
        "if self._stopping",
        RECORDING,
    ),
    mutant(
        "a store that is down is not waited for",
        "worker/shifts/recorder.py",
        "if not error.retryable or self._stopping",
        "if error.retryable or self._stopping",
        *(RECORDING, SHIFT),
    ),
    mutant(
        "a picture without a file ends shift after shift",
        "worker/shifts/recorder.py",
        "        except (RenderError, ObjectConflict) as error:",
        "        except ObjectConflict as error:",
        SHIFT,
    ),
    # The lease.
    mutant(
        "a lease without renewal",
        "worker/shifts/lease.py",
        "if time.monotonic() - changed_at >= self._hang_seconds:",
        "if time.monotonic() >= changed_at:",
        LEASE,
    ),
    mutant(
        "a lease renewed while the step hangs",
        "worker/shifts/lease.py",
        "if time.monotonic() - changed_at >= self._hang_seconds:",
        "if time.monotonic() < changed_at:",
        LEASE,
    ),
    mutant(
        "after a freeze the lease seems to hold",
        "worker/shifts/lease.py",
        "        return max(0.0, self._until - time.monotonic())",
        "        return 1.0",
        LEASE,
    ),
    mutant(
        "a hung process stays",
        "worker/shifts/lease.py",
        "            self._end_process(_EXIT_HUNG)\n",
        "            return\n",
        LEASE,
    ),
    # The shift and its runs.
    mutant(
        "a broken pass kills the neighbours",
        "worker/shifts/group_run.py",
        "neighbours=len(images) > 1)",
        "neighbours=False)",
        GROUP_RUN,
    ),
    mutant(
        "a suspect is rendered with others",
        "worker/shifts/group_run.py",
        "            if self._waiting[0].solo:",
        "            if self._waiting[0].id < 0:",
        GROUP_RUN,
    ),
    mutant(
        "a suspect takes along what was rendered before it",
        "worker/shifts/group_run.py",
        "        return self._recorder.wait(seconds=0)",
        "        return True",
        GROUP_RUN,
    ),
    mutant(
        "what comes after a suspect is begun before it is recorded",
        "worker/shifts/group_run.py",
        "                if image.solo:\n                    self._may_pend = 0\n",
        "",
        GROUP_RUN,
    ),
    mutant(
        "more is claimed while a suspect is in work",
        "worker/shifts/group_run.py",
        "room = 0 if self._solo_in_work else self._engine.room()",
        "room = self._engine.room()",
        GROUP_RUN,
    ),
    mutant(
        "a suspect joins what is in the engine",
        "worker/shifts/group_run.py",
        "                if not self._engine.busy and not chosen and self._all_recorded():",
        "                if not chosen and self._all_recorded():",
        GROUP_RUN,
    ),
    mutant(
        "followers of a failed image are held on to",
        "worker/shifts/group_run.py",
        "        self._give_back(self._followers.pop(image.request_key, ()))",
        "        self._followers.pop(image.request_key, ())",
        *(GROUP_RUN, SHIFT),
    ),
    mutant(
        "followers are held on to when a run ends",
        "worker/shifts/group_run.py",
        "[*self._rendering.values(), *self._waiting, *self._following()])",
        "[*self._rendering.values(), *self._waiting])",
        *(GROUP_RUN, SHIFT),
    ),
    mutant(
        "followers of a stopped job's image are held on to",
        "worker/shifts/group_run.py",
        "                stopped += self._followers.pop(image.request_key, [])",
        "                self._followers.pop(image.request_key, [])",
        *(GROUP_RUN, SHIFT),
    ),
    mutant(
        "an old order is carried out again and again",
        "worker/shifts/group_run.py",
        "        if orders is self._applied:",
        "        if orders is None:",
        GROUP_RUN,
    ),
    mutant(
        "one request is rendered twice",
        "worker/shifts/group_run.py",
        "            if key in in_work:",
        "            if key is None:",
        SHIFT,
    ),
    mutant(
        "an outage of the store is charged to an image",
        "worker/shifts/group_run.py",
        "self._fail(image, _charged(item.error))",
        "self._fail(image, item.error)",
        GROUP_RUN,
    ),
    mutant(
        "an image that waits for the store is charged with its worker",
        "worker/shifts/recorder.py",
        "                    self._leased_images.end_rendering(image)\n",
        "                    pass\n",
        RECORDING,
    ),
    mutant(
        "images that were lost meanwhile are rendered",
        "worker/shifts/leased_images.py",
        "return [image for image in images if image.id in mine]",
        "return list(images)",
        GROUP_RUN,
    ),
    mutant(
        "out of memory is the images' fault",
        "worker/shifts/group_run.py",
        "        except OutOfMemory:\n            raise\n        except PassFailed as error:",
        "        except PassFailed as error:",
        SHIFT,
    ),
    mutant(
        "a drain waits for the store without end",
        "worker/shifts/stop_reason.py",
        "store_until=min(until, self.store_until))",
        "store_until=self.store_until)",
        SHIFT,
    ),
    mutant(
        "a worker without the model uses up the job",
        "worker/shifts/shift.py",
        "_REFUSED_IMAGES = 8",
        "_REFUSED_IMAGES = 800",
        SHIFT,
    ),
    # Being told to stop.
    mutant(
        "a second signal is ignored",
        "worker/process/drain.py",
        "        if self._told.is_set():\n            os._exit(_EXIT_FORCED)",
        "        if self._told.is_set():\n            return",
        DRAIN,
    ),
    mutant(
        "a child outlives its parent",
        "worker/process/drain.py",
        "                os._exit(_EXIT_ORPHAN)",
        "                pass",
        DRAIN,
    ),
)
