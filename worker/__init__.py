"""The GPU side: a Celery worker that claims images from SQL, renders, stores and records them.

torchao, where it is installed, and diffusers write lines of their own to stderr while they are
imported: about kernels of other GPUs, and about names that will change. A worker's log has lines
of one form and is read by programs, so these are not written. What goes wrong later still is
(`models/library_logs.py`).
"""

import logging
import os

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
