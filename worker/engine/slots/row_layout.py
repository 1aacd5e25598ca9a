"""Where each image's rows are: several denoiser calls → one of a fixed number of rows, and back.

A call is the pair (args, kwargs). An argument is found by its path: `(0, 2)` is the third
positional one, `(1, "guidance")` a keyword, `(1, "added", 0)` the first item of a list.

Which arguments grow with the number of images is learnt by comparing the pipeline's own call for
one image with its call for two. Nothing here knows any family.
"""

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

Call = tuple[tuple[Any, ...], dict[str, Any]]
Path = tuple[int | str, ...]
Leaves = Mapping[Path, int | None]
"""The path of each argument that grows with the number of images → the axis that grows.

None: it is a list with an item (or more) for each image.
"""


def structure(value: Any) -> Hashable:
    """What stays the same when the number of images in a call changes: names and kinds."""
    if torch.is_tensor(value):
        return value.ndim
    if isinstance(value, list | tuple):
        # Lists of rows grow, lists of parts do not; their first items look alike all the same.
        return ("items", structure(value[0]) if value else None)
    if isinstance(value, dict):
        return tuple((key, structure(each)) for key, each in sorted(value.items()))
    return type(value).__name__


def call_structure(call: Call) -> Hashable:
    """The `structure` of every argument of a call."""
    args, kwargs = call
    return tuple(structure(each) for each in args), structure(kwargs)


def batched_leaves(one: Any, two: Any, path: Path = ()) -> dict[Path, int | None]:
    """The leaves that grew between a call for one image and the same call for two."""
    if torch.is_tensor(one):
        axes = [
            axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b
        ]
        return {path: axes[0]} if axes else {}
    if isinstance(one, list | tuple):
        if len(one) != len(two):
            return {path: None}
        pairs = list(zip(range(len(one)), one, two, strict=True))
    elif isinstance(one, dict):
        pairs = [(key, one[key], two[key]) for key in one]
    else:
        return {}
    found: dict[Path, int | None] = {}
    for key, a, b in pairs:
        found |= batched_leaves(a, b, (*path, key))
    return found


class RowLayout:
    """Knows which arguments have rows for each image, in calls of one structure.

    `one` and `two` are such calls: one for one image, and one for two.

    `multiple` is for lists of texts: the denoiser itself pads each text to a multiple of that many
    tokens, so texts of the same padded length have the same shape. Raises `ValueError` if no
    argument grows by rows, so that the calls can't be merged.
    """

    def __init__(self, one: Call, two: Call, *, multiple: int = 1) -> None:
        self._leaves: Leaves = batched_leaves(one, two)
        if not any(axis in (0, None) for axis in self._leaves.values()):
            raise ValueError("no argument has a row for each image")
        self._multiple = multiple
        # A denoiser that takes a list with a tensor for each row also returns such a list.
        self._returns_lists = any(
            axis is None and torch.is_tensor(_at(one, path)[0])
            for path, axis in self._leaves.items()
        )
        # The tensor → its version and the hash of its content. Pipelines pass the same tensor in
        # every step, and reading it back from a GPU means waiting for the GPU.
        self._digests: Any = WeakIdKeyDictionary()

    def rows(self, call: Call) -> int:
        """Denoiser rows of one image: two where a pipeline guides in one call."""
        path, axis = next((p, a) for p, a in self._leaves.items() if a in (0, None))
        leaf = _at(call, path)
        return len(leaf) if axis is None else int(leaf.shape[axis])

    def half(self, call: Call, *, first: bool) -> Call | None:
        """The first or the second half of an image's rows as a call; None if it can't be halved."""
        rows = self.rows(call)
        alike = all(
            axis in (0, None) and len(_at(call, path)) == rows
            for path, axis in self._leaves.items()
        )
        if rows % 2 or not alike:
            return None
        half: Call = self._half(call, (), first)
        return half

    def _half(self, value: Any, path: Path, first: bool) -> Any:
        if path in self._leaves:
            half = len(value) // 2
            return value[:half] if first else value[half:]
        if isinstance(value, list | tuple):
            return type(value)(self._half(each, (*path, n), first) for n, each in enumerate(value))
        if isinstance(value, dict):
            return {key: self._half(each, (*path, key), first) for key, each in value.items()}
        return value

    def signature(self, call: Call) -> Hashable:
        """What two calls must have in common to share a forward pass.

        It is the shape of everything that grows, and the value of everything else.
        """
        return self._signature(call, ())

    def together(self, calls: Sequence[Call], *, images: int) -> Call:
        """Calls of one signature as one call for `images` images; the last ones are constant."""
        padding = [_constant(calls[0], self._leaves, ())] * (images - len(calls))
        merged: Call = self._together([*calls, *padding], (), self.rows(calls[0]))
        return merged

    def apart(self, output: Any, *, count: int, images: int, rows: int) -> list[Any]:
        """The result of a merged call for each of its first `count` images."""
        return [self._part(output, n * rows, (n + 1) * rows, images * rows) for n in range(count)]

    def _part(self, output: Any, start: int, end: int, total: int) -> Any:
        """The rows from `start` to `end` of everything in a result that has `total` rows."""
        if torch.is_tensor(output):
            has_rows = output.ndim > 0 and len(output) == total
            return output[start:end] if has_rows else output
        if isinstance(output, dict):
            # diffusers' result classes are dictionaries that are made from keyword arguments.
            parts = {k: self._part(v, start, end, total) for k, v in output.items()}
            return type(output)(**parts)
        if isinstance(output, list) and self._returns_lists and len(output) == total:
            return output[start:end]
        if isinstance(output, list | tuple):
            return type(output)(self._part(each, start, end, total) for each in output)
        return output

    def _signature(self, value: Any, path: Path) -> Hashable:
        if torch.is_tensor(value):
            shape = (tuple(value.shape), value.dtype)
            if path in self._leaves or value.numel() == 1:
                return shape
            return (*shape, self._digest(value))
        if isinstance(value, list | tuple):
            if path in self._leaves:
                return tuple(self._row_signature(row) for row in value)
            return tuple(self._signature(each, (*path, n)) for n, each in enumerate(value))
        if isinstance(value, dict):
            return tuple((k, self._signature(v, (*path, k))) for k, v in sorted(value.items()))
        return repr(value)

    def _row_signature(self, row: Any) -> Hashable:
        """The signature of one item of a list that grows."""
        if not torch.is_tensor(row):
            return repr(row)
        length, *rest = row.shape or (1,)
        # Only texts are two-dimensional in such lists: (tokens, features).
        if row.ndim == 2:
            length += -length % self._multiple
        return (length, *rest), row.dtype

    def _digest(self, tensor: torch.Tensor) -> str:
        known = self._digests.get(tensor)
        if known is None or known[0] != tensor._version:
            content = tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            known = (tensor._version, hashlib.sha256(content).hexdigest())
            self._digests[tensor] = known
        digest: str = known[1]
        return digest

    def _together(self, values: Sequence[Any], path: Path, rows: int) -> Any:
        first = values[0]
        if path in self._leaves:
            axis = self._leaves[path]
            if axis is None:
                return [row for value in values for row in value]
            return torch.cat(list(values), dim=axis)
        if torch.is_tensor(first) and first.numel() == 1:
            # A timestep for the whole call becomes one for each row, as the denoiser itself does.
            each = torch.stack([value.reshape(()) for value in values])
            return each.repeat_interleave(rows)
        if isinstance(first, list | tuple):
            items = (
                self._together([value[n] for value in values], (*path, n), rows)
                for n in range(len(first))
            )
            return type(first)(items)
        if isinstance(first, dict):
            return {k: self._together([v[k] for v in values], (*path, k), rows) for k in first}
        return first


def _at(call: Call, path: Path) -> Any:
    """The argument at a path."""
    found: Any = call
    for key in path:
        found = found[key]
    return found


def _constant(value: Any, leaves: Leaves, path: Path) -> Any:
    """A call for an empty slot: of the shapes of this one, and with the same content always."""
    if torch.is_tensor(value):
        return _blank(value) if path in leaves or value.numel() == 1 else value
    if isinstance(value, list | tuple):
        if path in leaves:
            return [_blank(row) if torch.is_tensor(row) else row for row in value]
        return type(value)(_constant(each, leaves, (*path, n)) for n, each in enumerate(value))
    if isinstance(value, dict):
        return {key: _constant(each, leaves, (*path, key)) for key, each in value.items()}
    return value


def _blank(tensor: torch.Tensor) -> torch.Tensor:
    # A mask of nothing but zeros would make NaN of the row; an index other than 0 may not exist.
    is_mask = not tensor.is_floating_point() and tensor.ndim > 1
    return torch.ones_like(tensor) if is_mask else torch.zeros_like(tensor)
