"""What images share that differ only in prompt and seed, as most images of a job do.

A key is the SHA-256 of a canonical text. Of such images all of that text is the same but the prompt
and the seed, so the rest is written once.
"""

from dataclasses import dataclass, field, replace

from imagemill.db.specs import (
    ImageSpec,
    canonical_document,
    canonical_json,
    file_texts,
    sha256_of,
)


class SharedSpec:
    """A specification without its prompt and its seed.

    `example` is the specification of one of the images; `group_key` is that of all of them.
    """

    def __init__(self, example: ImageSpec) -> None:
        self.example = example
        self.group_key = example.group_key()
        document = canonical_document(example)
        fields = [f'"{name}":{canonical_json(document[name])},' for name in sorted(document)]
        names = sorted(document)
        prompt, seed = names.index("prompt"), names.index("seed")
        # Every specification has fields behind the seed, so the last comma is one too many.
        self._texts = (
            "{" + "".join(fields[:prompt]) + '"prompt":',
            "," + "".join(fields[prompt + 1 : seed]) + '"seed":',
            "," + "".join(fields[seed + 1 :]).removesuffix(",") + "}",
        )
        self._files = file_texts(example.format, example.quality)

    def spec(self, prompt: str, seed: int) -> ImageSpec:
        """The whole specification of an image."""
        return replace(self.example, prompt=prompt, seed=seed)

    def request_keys(self, prompt: str, seed: int) -> tuple[str, ...]:
        """As `ImageSpec.request_keys` of the whole specification."""
        start, middle, end = self._texts
        pixel_key = sha256_of(f"{start}{canonical_json(prompt)}{middle}{seed}{end}")
        return tuple([sha256_of(f"{before}{pixel_key}{after}") for before, after in self._files])


# Not frozen: every image needs one, and a frozen one takes six times as long to make.
@dataclass(slots=True)
class Request:
    """One image that is asked for."""

    shared: SharedSpec
    prompt: str
    seed: int
    known_keys: tuple[str, ...] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, spec: ImageSpec) -> "Request":
        """A request that shares nothing with others."""
        return cls(SharedSpec(spec), spec.prompt, spec.seed)

    def spec(self) -> ImageSpec:
        """The whole specification."""
        return self.shared.spec(self.prompt, self.seed)

    def keys(self) -> tuple[str, ...]:
        """The request key in every metadata version so far, the newest first."""
        if self.known_keys is None:
            self.known_keys = self.shared.request_keys(self.prompt, self.seed)
        return self.known_keys
