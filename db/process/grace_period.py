"""How long a command may take to end once it was told to.

What a command does can stop at any moment, so nothing is worth a longer wait. But Python ends a
process only after its threads, and a thread may wait in a library for a database that neither
answers nor closes the connection, or look for a broker for ever.
"""

import signal
import threading
from queue import SimpleQueue
from types import FrameType

GRACE_SECONDS = 8.0
"""Less than the ten seconds after which `imagemill up`, Docker and others kill."""


def begin_grace(seconds: float = GRACE_SECONDS) -> None:
    """End this process after so long, whatever it still waits for; the first call counts.

    For handlers of signals, and other code of the main thread. SIGALRM ends it, which needs none of
    its threads.
    """
    if not signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def stop_on_signals(stop: threading.Event, *, grace: bool = True) -> None:
    """Set `stop` on SIGTERM and SIGINT; with `grace`, end the process soon after that.

    Call it in the main thread. The handler must not set `stop` itself: it interrupts the main
    thread, which may be about to wait for `stop` and hold its lock, and would wait for ever.
    """
    told: SimpleQueue[int] = SimpleQueue()

    def tell(number: int, frame: FrameType | None) -> None:
        del frame
        if grace:
            begin_grace()
        told.put(number)

    def pass_on() -> None:
        told.get()
        stop.set()

    threading.Thread(target=pass_on, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, tell)
