"""What openpyxl does not say of a sheet: formulas without a value, merged cells.

In a module of its own, because openpyxl takes long to import and few manifests are workbooks.
"""

from collections.abc import Iterator
from typing import Any

from openpyxl.cell.cell import TYPE_FORMULA
from openpyxl.worksheet import _read_only
from openpyxl.worksheet._reader import FORMULA_TAG, VALUE_TAG, WorkSheetParser

from imagemill.scheduler_jobs.manifest.problems import Broken

_SHOWN_RANGES = 3


def look_closer() -> None:
    """Let openpyxl's reader of sheets tell what `SheetParser` tells. Safe to repeat."""
    _read_only.WorkSheetParser = SheetParser


class SheetParser(WorkSheetParser):  # type: ignore[misc]  # openpyxl has no types
    """openpyxl's parser of a sheet, which takes no cell for empty that is not."""

    def parse(self) -> Iterator[Any]:
        """The rows; `Broken` after the last one if cells of the sheet are merged."""
        yield from super().parse()
        ranges = [str(each.ref) for each in getattr(self.merged_cells, "mergeCell", ())]
        if ranges:
            some = ", ".join(ranges[:_SHOWN_RANGES]) + ", …" * (len(ranges) > _SHOWN_RANGES)
            raise Broken(
                f"merged cells, {some}: only the first cell of each has a value",
                "a value in every cell that is to have one",
            )

    def parse_cell(self, element: Any) -> dict[str, Any]:
        """One cell; of the type of formulas if it has a formula and no stored value.

        An empty text may be a formula's value. It is stored with the type of texts.
        """
        cell: dict[str, Any] = super().parse_cell(element)
        if cell["value"] is None and element.find(FORMULA_TAG) is not None:
            is_text = cell["data_type"] == "str" and element.find(VALUE_TAG) is not None
            cell["data_type"] = "s" if is_text else TYPE_FORMULA
        return cell
