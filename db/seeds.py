"""Which seed an image gets when its row gives none.

The seed depends on the job's seed, the row's key and the sample's number alone: inserting,
deleting or reordering rows changes no other row's pictures.
"""

import hashlib

SEED_LIMIT = 2**63
"""Seeds are in [0, SEED_LIMIT): what SQL's BIGINT and torch's generators both hold."""

DERIVE = -1
"""A row's way to say: as if no seed were given."""


def derive_seed(*, job_seed: int, row_key: str, sample_index: int) -> int:
    """A 32-bit seed for one sample of one row."""
    text = f"{job_seed}\0{row_key}\0{sample_index}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")


def prompt_hash(prompt: str) -> str:
    """What stands for a prompt in a row's key: the first 128 bits of its SHA-256, in hex."""
    return hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def row_key(base: str, occurrence: int) -> str:
    """A row's key: its `id`, or its prompt's hash and how many equal prompts came before."""
    return f"{base}#{occurrence}"
