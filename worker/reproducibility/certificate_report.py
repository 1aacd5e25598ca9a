"""Certificates in words, for people."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

from imagemill.worker.reproducibility.certificate import HOW_TO_KEEP_BITS, Certificate, Promise

_TITLES: Mapping[Promise, str] = {
    "independence": "Batch independence",
    "composition": "Dependence on the recorded composition alone",
    "nothing": "Equal bits in this one process",
}

NOTHING_PROMISED = (
    "With reproducible = false nothing is promised: another run may choose other algorithms"
)
"""What a certificate says of an environment whose algorithms are free."""


def report(certificates: Iterable[tuple[str, Certificate]]) -> str:
    """Certificates by title, as Markdown."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for title, certificate in certificates:
        word = "holds" if certificate.holds else "**does not hold**"
        by_name[title].append(
            f"{_TITLES[certificate.promise]} {word} in environment "
            f"`{certificate.environment[:16]}…`, B = {certificate.slots}, "
            f"{certificate.seconds:.1f} s."
        )
        if not certificate.holds and certificate.promise == "independence":
            by_name[title] += ["", f"{HOW_TO_KEEP_BITS}."]
        if certificate.promise == "nothing":
            by_name[title] += ["", f"{NOTHING_PROMISED}."]
        by_name[title] += ["", "| check | images | different |", "| --- | --- | --- |"]
        by_name[title] += [
            f"| {check.name} | {check.compared} | {check.different} |"
            for check in certificate.checks
        ]
    sections = ["\n".join([f"## {title}", "", *lines]) for title, lines in by_name.items()]
    return "\n\n".join(["# Certificate of batch independence", *sections]) + "\n"
