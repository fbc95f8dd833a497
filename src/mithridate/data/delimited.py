"""Text tables: cells with a separator between them, which is given or found from the first lines.

A table is read whole or refused. All cells are returned as text. What stands above the table (`sep=;`, comments) is not
a row. Each row must have as many cells as the header.
"""

import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv

from mithridate.configuration.reading import FileOptions, told
from mithridate.data.doubts import check_header, warn
from mithridate.data.faults import Unfit
from mithridate.data.kinds import COPIES, HEAD, Source, Text, check_head, check_memory
from mithridate.errors import DataError

BLANKS = " "
"""The separator that means one or more blanks or tabs."""
SEPARATORS = "\t;|,"
LOOKED_AT = 200
"""How many lines are searched for the separator."""
PREAMBLE = 5
"""The most lines above a table that are left out because they have a single cell."""
QUOTE = '"'


@dataclass(frozen=True)
class Layout:
    """How a text table is written.

    `names`: of the columns; `separator`; `skipped`: how many lines above the table are left out; `header`: whether its
    first line is a header; `quote`: the quotation mark.
    """

    names: tuple[str, ...]
    separator: str
    skipped: int = 0
    header: bool = True
    quote: str = QUOTE

    @property
    def dialect(self) -> dict[str, Any]:
        """The layout as arguments of `csv.reader`."""
        return {"delimiter": self.separator, "quotechar": self.quote, "skipinitialspace": self.separator == BLANKS}

    def records(self, text: Text) -> Iterator[tuple[int, list[str]]]:
        """Yield each row with the number of the line on which it starts; header, blank lines and comments are left out.

        Raises `DataError` for text that cannot be divided into cells.
        """
        with text.lines() as file:
            lines = itertools.islice(file, self.skipped, None)
            reader, line = csv.reader(map(self.spaced, lines), **self.dialect), 1
            header = self.header
            try:
                for cells in reader:
                    if cells and (len(cells) == len(self.names) or not _beside(self.separator.join(cells))):
                        if not header:
                            yield line + self.skipped, cells
                        header = False
                    line = reader.line_num + 1
            except csv.Error as error:
                raise DataError(
                    f"{text.path}: line {line + self.skipped} cannot be read ({error}); is a quotation mark left open?"
                ) from None

    def spaced(self, line: str) -> str:
        """Return a line for `csv.reader`: if blanks separate, tabs become blanks and those at the end are removed."""
        return line.replace("\t", " ").rstrip() if self.separator == BLANKS else line


def _beside(text: str) -> bool:
    """Return whether a record with another width than the table is blank or a comment."""
    return not text.strip() or text.lstrip()[0] in "#%"


@dataclass(frozen=True)
class Delimited:
    """An opened text table: the names of its columns are known, `cells` reads its cells."""

    text: Text
    layout: Layout

    @property
    def names(self) -> tuple[str, ...]:
        """The columns, in the file's order."""
        return self.layout.names

    @property
    def source(self) -> Source:
        """Where the rows come from."""

        def at(row: int) -> str:
            return f"line {next(itertools.islice(self.layout.records(self.text), row, None))[0]}"

        return Source(str(self.text.path), True, at)

    def cells(self, places: Sequence[int]) -> pd.DataFrame:
        """Return these columns as text. Raises `DataError` for a row with more or fewer cells than the header."""
        if self.layout.separator == BLANKS:
            self._check_widths()
            rows = [record for _, record in self.layout.records(self.text)]
            return pd.DataFrame(rows, columns=range(len(self.names)), dtype="str").iloc[:, list(places)]
        keys = [str(place) for place in range(len(self.names))]
        wanted = [keys[place] for place in places]
        try:
            with self.text.open() as file:
                table = pyarrow.csv.read_csv(
                    file,
                    read_options=pyarrow.csv.ReadOptions(
                        column_names=keys, block_size=2**24, skip_rows=self.layout.skipped
                    ),
                    parse_options=pyarrow.csv.ParseOptions(
                        delimiter=self.layout.separator,
                        quote_char=self.layout.quote,
                        newlines_in_values=True,
                        invalid_row_handler=_handled,
                    ),
                    convert_options=pyarrow.csv.ConvertOptions(
                        column_types=dict.fromkeys(keys, pa.string()), include_columns=wanted
                    ),
                )
        except pa.ArrowInvalid as error:
            self._check_widths()
            raise DataError(f"{self.text.path} cannot be read as CSV: {error}") from None
        # The header was read as a row, so all rows were checked against its width.
        return table.slice(int(self.layout.header)).to_pandas()

    def _check_widths(self) -> None:
        for line, record in self.layout.records(self.text):
            if len(record) != len(self.names):
                kind = "the header" if self.layout.header else "the first line"
                raise DataError(
                    f"{self.text.path}: line {line} has {len(record)} cells, {kind} {len(self.names)}; quote cells "
                    f"that contain {self.layout.separator!r}"
                )


def _handled(row: Any) -> str:
    return "skip" if _beside(row.text) else "error"


def open_delimited(text: Text, options: FileOptions) -> Delimited:
    """Find out how a text table is written, and open it.

    Raises `DataError` if it is not a table, is too large or is not UTF-8.
    """
    with text.open() as file:
        head = file.read(HEAD)
    if not head.strip():
        raise DataError(f"{text.path} is empty")
    lines = _complete(head.decode("utf-8-sig", errors="replace"), len(head) < HEAD)
    told_first = re.fullmatch(r'"?sep=(.)"?\s*', lines[0], re.DOTALL)
    first, separator = (1, told_first[1]) if told_first else (0, "")
    while first < len(lines) - 1 and (not lines[first].strip() or lines[first].lstrip()[0] in "#%"):
        first += 1
    separator = options.separator or separator or ("\t" if text.path.suffix.lower() == ".tsv" else "")
    shown = lines[first : first + LOOKED_AT]
    layout = Layout((), separator or _separator(shown, options.decimal))
    records = _records(shown, layout)
    if len(records[0]) > 1 and all(re.fullmatch(r"\s*'[^']*'\s*", cell) for cell in records[0]):
        layout = replace(layout, quote="'")
        records = _records(shown, layout)
    if max(map(len, records)) == 1 and not options.separator:
        raise Unfit(
            Source(str(text.path)),
            "no comma, semicolon, tab, bar or blank occurs equally often in each line, so the separator is unknown",
            f"name it, as {told({'separator': ':'})}, or quote cells that contain it",
        )
    layout, records = _below_preamble(replace(layout, skipped=first), lines, records, text)
    size, rows = text.size, math.ceil(text.size * head.count(b"\n") / len(head))
    what = f"{rows:,} rows of {len(records[0])} columns"
    check_memory(str(text.path), 2 * size + 8 * (COPIES + 1) * rows * len(records[0]), what)
    _check_utf8(text)
    return Delimited(text, _named(layout, lines, records, options, text))


def _check_utf8(text: Text) -> None:
    """Raise `Unfit` if the text is not UTF-8."""
    lines = offset = 0
    with text.open() as file:
        while block := b"".join(file.readlines(2**24)):
            try:
                block.decode("utf-8")
            except UnicodeDecodeError as error:
                line = lines + block[: error.start].count(b"\n") + 1
                raise Unfit(
                    Source(str(text.path)),
                    f"it is not UTF-8: line {line}, byte {offset + error.start} is 0x{block[error.start]:02x}",
                    "save it as UTF-8",
                    encoding="cp1252",
                ) from None
            lines, offset = lines + block.count(b"\n"), offset + len(block)


def _complete(head: str, whole: bool) -> list[str]:
    lines = list(io.StringIO(head, newline=""))
    return lines if whole or len(lines) < 2 else lines[:-1]


def _records(lines: Sequence[str], layout: Layout) -> list[list[str]]:
    """Return the records in these lines as far as they can be read; blank lines are left out."""
    found: list[list[str]] = []
    try:
        found.extend(filter(None, csv.reader(map(layout.spaced, lines), **layout.dialect)))
    except csv.Error:
        # A cell begins in these lines and ends after them; the file itself is read later.
        found = found or [lines[0][: csv.field_size_limit()].split(layout.separator)]
    return found


def _separator(lines: Sequence[str], decimal: str) -> str:
    """Return the separator of these lines: the one that gives every line equally many cells, and the most cells."""
    marks = SEPARATORS.replace(decimal, "")
    found = {mark: [len(record) for record in _records(lines, Layout((), mark))] for mark in marks}
    even = {mark: widths[0] for mark, widths in found.items() if len(set(widths)) == 1 and widths[0] > 1}
    if ";" in even:
        even.pop(",", None)  # a decimal comma
    if even:
        return max(even, key=lambda mark: even[mark])
    common = {mark: Counter(widths).most_common(1)[0] for mark, widths in found.items()}
    often = {mark: width for mark, (width, times) in common.items() if width > 1 and 2 * times > len(found[mark])}
    first = {mark: widths[0] for mark, widths in found.items() if widths[0] > 1}
    spaced = {len(record) for record in _records(lines, Layout((), BLANKS))}
    # R writes names of rows without a header above them.
    if max(spaced) > max([1, *often.values()]) and max(spaced) - min(spaced) <= (len(spaced) == 2):
        return BLANKS
    return max(often or first, key=lambda mark: (often or first)[mark]) if often or first else ","


def _below_preamble(
    layout: Layout, lines: Sequence[str], records: list[list[str]], text: Text
) -> tuple[Layout, list[list[str]]]:
    """Leave out lines of a single cell above a table whose lines all have equally many cells; warn of it."""
    alone = next((place for place, record in enumerate(records) if len(record) > 1), 0)
    widths = {len(record) for record in records[alone:]}
    if not 0 < alone <= PREAMBLE or len(widths) > 1 or max(widths) < 3 or len(records) < alone + PREAMBLE:
        return layout, records
    blank, place = 0, layout.skipped
    while blank < alone:
        blank += bool(lines[place].strip())
        place += 1
    warn(f"{text.path}: {records[0][0][:60]!r} above the table is taken for a remark and left out")
    return replace(layout, skipped=place), records[alone:]


def _named(layout: Layout, lines: Sequence[str], records: list[list[str]], options: FileOptions, text: Text) -> Layout:
    """Return the layout with the names of the columns: the header, a comment above the rows, or numbers."""
    width = Counter(len(record) for record in records[1:] or records).most_common(1)[0][0]
    above = lines[layout.skipped - 1].lstrip("#% ") if layout.skipped else ""
    remark = _records([above], layout)[0] if above.strip() else []
    if options.header is None and len(remark) == len(records[0]) > 1 and _measured(records[0]) > _measured(remark) == 0:
        layout, names = replace(layout, header=False), remark
    elif options.header == "none":
        layout, names = replace(layout, header=False), [str(place + 1) for place in range(len(records[0]))]
    else:
        names = records[0]
        check_head(names, text.path)
        if width == len(names) + 1:
            # R writes no header above the names of rows; or every row ends with a separator.
            ends = all(not record[-1].strip() for record in records[1:] if len(record) == width)
            names = [*names, ""] if ends else ["", *names]
            layout = replace(layout, header=False, skipped=layout.skipped + _height(lines[layout.skipped :], layout))
        elif len(records) > 1 and width < len(names) and not "".join(names[width:]).strip():
            names = names[:width]
            layout = replace(layout, header=False, skipped=layout.skipped + _height(lines[layout.skipped :], layout))
    told_names = [name.strip() or f"Unnamed: {place}" for place, name in enumerate(names)]
    check_head(told_names, text.path)
    if options.header is None and layout.header and len(records) > 1:
        rest = [record for record in records[1:] if len(record) == len(names)]
        check_header(told_names, rest, options.target, Source(str(text.path)))
    return replace(layout, names=tuple(told_names))


def _measured(cells: Sequence[str]) -> int:
    return sum(re.fullmatch(r"\s*[+-]?(\d+[.,]?\d*|[.,]\d+)(e[+-]?\d+)?\s*", cell, re.I) is not None for cell in cells)


def _height(lines: Sequence[str], layout: Layout) -> int:
    """Return how many lines the first record takes, including blank lines above it."""
    reader = csv.reader(map(layout.spaced, lines), **layout.dialect)
    next(filter(None, reader))
    return reader.line_num
