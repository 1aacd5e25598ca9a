"""What damages a manifest: hostile words and numbers, and bytes put in, cut out and changed."""

import random

WORDS = (
    "a red circle", "cat", "{a|b}", "{1..5}", "{2::x|y}", "__mood__", "__../secret__", "__a/b__",
    "{" * 30, "}" * 30, "{a|{b|{c|d}}}", "{1..999999999}", "\\{", "(x:1.5)", "[y]", "((", "AND",
    "\x1b[31m", "\u202e", "\u2066", "\0", "\r", "\n", "\u2028", "\ud800", "\U0010ffff", "é", "日本",
    "--ar 16:9", "<lora:x:0.8>", "(a:1.3)", "## x", "#x", "${c=red} ${c}", "-n4 -S7", "positive: x",
    "----", "_x000D_", "=1+1", "@SUM(A1)", "'; DROP TABLE images; --", "<script>", "%s%n",
    "${jndi:x}", "--", "--n",
    "--prompt", '"', "'", "`id`", "$(id)", "\ufeff", "e\u0301" * 40, "👩‍👩‍👧", "x" * 3000, " ", "",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 8, 20, 64, 512, 1000, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**40),
    0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 7.5, 20.0, True, False, None,
    "20", " 20 ", "2e1", "1e999", "0x10", "٣", "1_000", "-0", "NaN", "Infinity", "9" * 5000, "½",
)  # fmt: skip
PIECES = (
    b'"', b",", b"\t", b"\n", b"\r\n", b"\r", b"\0", b"\xff", b"\xfe\xff", b"[", b"]", b"{", b"}",
    b"\\", b" --", b"NaN", b"\xef\xbb\xbf", b"\x1f\x8b", b"PAR1", b"9" * 400, b"\xed\xa0\x80",
    b"\xf0\x9f", b"'", b"prompt", b"[" * 3000, b"a" * 9000, b'{"a":' * 1500, b"\\ud800", b":",
)  # fmt: skip


def hostile_text(rng: random.Random) -> str:
    """Up to five hostile words."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 5)))


def damage(rng: random.Random, body: bytes) -> bytes:
    """Bytes with up to four damages."""
    data = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        match rng.randrange(6):
            case 0:
                del data[at : at + rng.randint(1, 60)]
            case 1:
                data[at:at] = rng.choice(PIECES)
            case 2:
                data[at : at + 8] = rng.randbytes(8)
            case 3:
                del data[max(at, len(data) // 2) :]
            case 4:
                data[at:at] = data[max(0, at - 200) : at]
            case 5:
                data[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(data)
