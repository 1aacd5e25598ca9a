"""openpyxl's reader, which here also reports formulas without a value, and merged cells.

In a module of its own, because openpyxl takes long to import and few manifests are workbooks.
openpyxl itself stays as it is: the program that we are part of may read workbooks too.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from openpyxl.cell.cell import TYPE_FORMULA
from openpyxl.reader.excel import ExcelReader
from openpyxl.worksheet._read_only import ReadOnlyWorksheet
from openpyxl.worksheet._reader import FORMULA_TAG, VALUE_TAG, WorkSheetParser

from imagemill.scheduler_jobs.manifest.problems import Broken

_SHOWN_RANGES = 3


def open_sheets(stream: IO[bytes]) -> "list[Sheet]":
    """The sheets of a workbook, of which nothing is read yet. Raises what openpyxl raises."""
    reader = _Reader(stream, read_only=True, data_only=True, keep_links=False)
    reader.read()
    return [each for each in reader.wb.worksheets if isinstance(each, Sheet)]


class Sheet(ReadOnlyWorksheet):  # type: ignore[misc]  # openpyxl has no types
    """A sheet that is read once, row by row."""

    def _get_size(self) -> None:
        """Nothing: openpyxl would read a sheet to its end for its size, and again for its rows."""

    def every_row(self) -> Iterator[tuple[Any, ...]]:
        """The cells of each row, from the first one; of a blank row none.

        Raises:
            Broken: cells are merged that have a value; said after the last row.
        """
        with self._get_source() as source:
            parser = self._parser(source)
            line = 0
            for number, cells in parser.parse():
                for _ in range(line + 1, number):
                    yield ()
                # A number may come again, or out of order; there are no two such rows.
                if number > line:
                    yield self._get_row(cells)
                    line = number
        # A sheet names its merged cells after its rows.
        if parser.merged_cells is not None:
            self._check_merged(parser.merged_cells.mergeCell)

    def _check_merged(self, ranges: Iterable[Any]) -> None:
        """Raise `Broken` if merged cells have a value: the rows have it in the first cell alone.

        Blank ones are a matter of looks. Only a sheet with merged cells is read a second time.
        """
        first = {(each.min_row, each.min_col): str(each.ref) for each in ranges}
        with self._get_source() as source:
            rows = self._parser(source).parse()
            cells = (cell for _, row in rows for cell in row if not _is_blank(cell))
            places = ((cell["row"], cell["column"]) for cell in cells)
            found = [first[place] for place in places if place in first]
        if found:
            some = ", ".join(found[:_SHOWN_RANGES]) + ", …" * (len(found) > _SHOWN_RANGES)
            raise Broken(
                f"merged cells, {some}: only the first cell of each has a value",
                "a value in every cell that is to have one",
            )

    def _parser(self, source: IO[bytes]) -> "_Parser":
        return _Parser(
            source,
            self._shared_strings,
            data_only=True,
            epoch=self.parent.epoch,
            date_formats=self.parent._date_formats,
            timedelta_formats=self.parent._timedelta_formats,
        )


def _is_blank(cell: Mapping[str, Any]) -> bool:
    return cell["value"] in (None, "") and cell["data_type"] != TYPE_FORMULA


class _Reader(ExcelReader):  # type: ignore[misc]  # as above
    """openpyxl's reader of workbooks, whose sheets are `Sheet`s."""

    def read_worksheets(self) -> None:
        """Know of the sheets, as openpyxl does when it only reads."""
        for about, link in self.parser.find_sheets():
            if link.target not in self.valid_files:
                continue
            if "chartsheet" in link.Type:
                self.read_chartsheet(about, link)
                continue
            sheet = Sheet(self.wb, about.name, link.target, self.shared_strings)
            sheet.sheet_state = about.state
            self.wb._sheets.append(sheet)


class _Parser(WorkSheetParser):  # type: ignore[misc]  # openpyxl has no types
    """openpyxl's parser of a sheet, which takes no cell for empty that is not."""

    def parse_cell(self, element: Any) -> dict[str, Any]:
        """One cell; of the type of formulas if it has a formula and no stored value.

        An empty text may be a formula's value. It is stored with the type of texts.
        """
        cell: dict[str, Any] = super().parse_cell(element)
        if cell["value"] is None and element.find(FORMULA_TAG) is not None:
            is_text = cell["data_type"] == "str" and element.find(VALUE_TAG) is not None
            cell["data_type"] = "s" if is_text else TYPE_FORMULA
        return cell
