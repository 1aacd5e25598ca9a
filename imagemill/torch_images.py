"""Images as torch takes them. The only module here that imports torch: use `Images.torch()`."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info


class TorchImages(IterableDataset[dict[str, Any]]):
    """Examples of images, each by one worker of a loader; each worker opens the database itself.

    `images` are `imagemill.images.Images`, which make this.
    """

    def __init__(self, images: Any, *, decode: bool) -> None:
        self._images = images
        self._decode = decode

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        if worker is None:
            yield from self._images.examples(decode=self._decode)
        else:
            # A connection that two processes share would mix up their answers.
            images, part = self._images.elsewhere(), (worker.id, worker.num_workers)
            yield from images.examples(decode=self._decode, part=part)
