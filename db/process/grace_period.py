"""How long a command may take to end once it was told to.

What a command does can stop at any moment, so nothing is worth a longer wait. But Python ends a
process only after its threads, and a thread may wait in a library for a database that neither
answers nor closes the connection, or look for a broker for ever.
"""

import signal

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
