"""The seed of an image whose row gives none.

It depends only on the job's seed, the row's key and the number of the sample. The key is made of
the row's content, not of its position. So inserting, deleting or moving rows changes no other
row's pictures.
"""

import hashlib

SEED_LIMIT = 2**64
"""Seeds are in [0, SEED_LIMIT): what torch's generators take, and what ComfyUI draws."""

DERIVE = -1
"""The seed of a row that wants a derived seed, as if it had given none."""


def derive_seed(*, job_seed: int, row_key: str, sample_index: int) -> int:
    """A 32-bit seed for one sample of one row."""
    text = f"{job_seed}\0{row_key}\0{sample_index}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def prompt_hash(prompt: str) -> str:
    """A prompt's hash in a row's key: the first 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def row_key(base: str, occurrence: int) -> str:
    """A row's key: `base` (its `id` or its prompt's hash) and how many equal ones came before."""
    return f"{base}#{occurrence}"
