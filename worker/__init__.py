"""The GPU side: a Celery worker that claims images from SQL, renders, stores and records them.

torchao, where it is installed, diffusers and transformers write lines of their own to stderr while
they are imported: about kernels of other GPUs, names that will change, and torchvision, which
nothing here needs. A worker's log has lines of one form and is read by programs, so these are not
written. What goes wrong later still is (`models/library_logs.py`).
"""

import logging
import os

for _name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
    os.environ.setdefault(_name, "error")
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
