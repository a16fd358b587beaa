"""Lines of a TSV or CSV → rows of cells, quoted or not, as the whole file shows; a line that is no row says why.

Common Voice writes no quotation marks of its own, and its sentences hold some; pandas and spreadsheets put a cell with
a quotation mark, delimiter or line end between quotation marks and double those inside; other programs quote all
cells, or all sentences. One row alone does not tell which it is. Unlike the csv module, this goes on after a broken
row, and a quotation mark that nobody closed does not swallow the rows after it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .recordings import SOUND

LINE_END = re.compile(r"\r\n|\n|\r")  # nothing else: U+2028 and form feeds belong to a cell
QUOTED = re.compile(r'"((?:[^"]+|"")*+)" *')
RECORDING = re.compile(rf'({"|".join(map(re.escape, sorted(SOUND)))})"?\s*$', re.IGNORECASE)
FEWEST = 5  # rows, from which on a column of nothing but quoted cells is its writer's doing
LONGEST = 120  # characters of a line that are shown


@dataclass(slots=True)
class Line:
    """What may be a row: where it begins, its cells, and why it is none. `quoted` are its cells if marks are taken off.

    `style` is what its quotation marks look like: those of a writer ("quoted"), part of the text ("bare"), or "".
    """

    number: int
    cells: list[str]
    quoted: list[str] | None = None
    style: str = ""
    problem: tuple[str, str] | None = None  # the reason in words that can be counted, and details

    def fail(self, reason: str, detail: str = "", key: int = 0) -> None:
        """For `reason`; shown are the cells from column `key` on, or all if that one is empty."""
        text = " | ".join(self.cells[key if any(self.cells[key : key + 1]) else 0 :])
        self.problem = self.problem or (reason, detail + (text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"))


class Sheet:
    """`content` cut into lines. `first` are the cells of the first one that is not empty, without their marks."""

    def __init__(self, content: str, delimiter: str):
        self.content, self.delimiter = content, delimiter
        self._cell = re.compile(rf"[^{re.escape(delimiter)}\r\n]*")
        self._lines, start = [], 0
        for number, found in enumerate([*LINE_END.finditer(content), None], 1):
            end, following = found.span() if found else (len(content), 0)
            if end > start:
                self._lines.append((number, start, end))
            start = following
        self.first, self._headed = [], 0
        if self._lines:
            _, start, end = self._lines[0]
            cells, self._headed = self._quoted_row(start) or (content[start:end].split(delimiter), end)
            self.first = [_without_marks(cell).strip() for cell in cells]

    def rows(self, key: int, headed: bool = True) -> list[Line]:
        """The lines after the first, or from it on if it is not `headed`; those without a `problem` are rows.

        `key` is the column that names the recording.
        """
        self._key = key
        lines = [line for line in self._lines if line[1] >= (self._headed if headed else 0)]
        plain = [self.content[start:end].split(self.delimiter) for _, start, end in lines]
        self._suffixed = any(len(cells) > key and RECORDING.search(cells[key]) for cells in plain)
        free = self.delimiter in ",;" or self.content.startswith('"') or self._has_a_quoted_column(plain)
        found = list(self._scanned(lines, plain, free))
        quoted, bare = (sum(line.style == style for line in found) for style in ("quoted", "bare"))
        for line in found:
            self._judge(line, free or quoted > bare)
        self._judge_neighbours(found)
        return found

    def _scanned(self, lines: list[tuple[int, int, int]], plain: list[list[str]], free: bool) -> Iterator[Line]:
        """`free` says that the writer may have quoted any cell, not only those that need it."""
        at, doubtful = 0, 0  # where the quoted row, or the one that may be several, ends
        for index, ((number, start, _), cells) in enumerate(zip(lines, plain)):
            if start < at:
                continue
            line = Line(number, cells)
            if start < doubtful:
                line.fail("unclear quotation marks", key=self._key)
            elif _opens(cells) and (row := self._quoted_row(start)) and len(row[0]) == len(self.first):
                after = next((i for i in range(index, len(lines)) if lines[i][1] >= row[1]), len(lines))
                inside = plain[index:after]
                names = sum(map(self._names, inside))
                if names < 2 and (free or all(map(self._needs_marks, row[0]))):
                    if self._may_be_several(inside):
                        doubtful = row[1]
                        line.fail("unclear quotation marks", key=self._key)
                    else:
                        line.quoted, line.style, at = [_without_marks(cell) for cell in row[0]], "quoted", row[1]
            if not (line.style or line.problem) and len(cells) == len(self.first):
                marked = _opens(cells) if free else any('"' in cell and cell != '""' for cell in cells)
                line.style = "bare" if marked else ""
            yield line

    def _quoted_row(self, at: int) -> tuple[list[str], int] | None:
        """The cells from `at` on, as they stand, and where they end; None where a mark is not closed well."""
        cells = []
        while True:
            found = (QUOTED if self.content.startswith('"', at) else self._cell).match(self.content, at)
            if not found:
                return None
            cells.append(found[0])
            at = found.end()
            following = self.content[at : at + 1]
            if following != self.delimiter:
                return (cells, at) if following in ("", "\n", "\r") else None
            at += 1

    def _needs_marks(self, cell: str) -> bool:
        """Whether a writer that quotes no more than it must would write the cell so."""
        found = QUOTED.fullmatch(cell)
        return not (found and found[1]) or bool(re.search(rf'"|\r|\n|{re.escape(self.delimiter)}', found[1]))

    def _may_be_several(self, inside: list[list[str]]) -> bool:
        """Whether a quoted row over the lines `inside`, of which one names a recording, may be a piece and a row."""
        width, named = len(self.first), self._names(inside[0])
        if not self._suffixed and len(inside) > 1 and len(inside[0]) >= width and not _opens(inside[0][-1:]):
            return True
        wide = [len(cells) >= width and not (named and cells[self._key].strip()) for cells in inside]
        return any(wide[1:-1]) or (len(inside[0]) > 1 and any(wide[1:]))

    def _names(self, cells: list[str]) -> bool:
        """Whether one of the cells is the name of a recording."""
        return self._suffixed and any(map(RECORDING.search, cells))

    def _has_a_quoted_column(self, plain: list[list[str]]) -> bool:
        whole = [cells for cells in plain if len(cells) == len(self.first)]
        columns = zip(*whole) if len(whole) >= FEWEST else ()
        return any(all(QUOTED.fullmatch(cell) for cell in column) for column in columns)

    def _judge(self, line: Line, quoted: bool) -> None:
        """Choose between the cells with and without marks: `quoted` is what the file is, or most of it."""
        cells, width = line.cells, len(self.first)
        if line.style == "quoted" and quoted:
            line.cells = line.quoted
        elif line.style == "quoted" or (line.style == "bare" and quoted and _opens(cells)):
            line.fail("unclear quotation marks", "not like those of the other rows: ", self._key)
        elif len(cells) != width:
            line.fail(f"too {'many' if len(cells) > width else 'few'} cells", f"{len(cells)} of {width}: ", self._key)
        else:
            line.cells = ["" if cell == '""' else cell for cell in cells]
        if any("\0" in cell for cell in line.cells):
            line.fail("NUL characters", key=self._key)

    def _judge_neighbours(self, found: list[Line]) -> None:
        """A piece that is no row may belong to the line before or after, which then looks like a row, but is half of
        one: so where a line end is in the first or the last cell. Not so where it completes a row cut before it."""
        before, held, loose = None, 0, False  # the line before; cells of a cut row; whether pieces are of no row yet
        for line in (line for line in found if any(map(str.strip, line.cells))):
            if not self._is_piece(line):
                if loose:
                    line.fail("row cut by a line end", key=self._key)
                held, loose = len(line.cells) if len(line.cells) < len(self.first) and not loose else 0, False
            else:
                line.fail("row cut by a line end", key=self._key)
                if before and not held:
                    before.fail("row cut by a line end", key=self._key)
                held = held + len(line.cells) - 1 if held else 0
                loose = held != len(self.first) and self._key > 0  # what begins with its recording has lost no piece
                held = 0 if held == len(self.first) else held
            before = line

    def _is_piece(self, line: Line) -> bool:
        """Whether a line names no recording, and is not a row that leaves that cell empty."""
        cells, width = line.cells, len(self.first)
        if len(cells) == width and not cells[self._key].strip():
            return False
        if self._suffixed:
            return not self._names(cells)
        return len(cells) < width and (len(cells) <= max(self._key, 1) or " " in cells[self._key].strip())


def _opens(cells: list[str]) -> bool:
    return any(cell.startswith('"') and cell != '""' for cell in cells)


def _without_marks(cell: str) -> str:
    return found[1].replace('""', '"') if (found := QUOTED.fullmatch(cell)) else cell
