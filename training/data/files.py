"""A user's data file, as rows with their places: its format, its encoding, and the shapes that public data sets have.

Every complaint names the file and the line. Does not know which column means what, nor any token. A row that cannot be
used is refused at once, or counted and left out where the user allows it (`bad_rows.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from chatglm2.errors import DataError
from chatglm2.files import open_regular
from training.data.bad_rows import BadRows
from training.data.formats.csv_rows import TABS, read_csv
from training.data.formats.json_rows import read_json
from training.data.formats.rows import Rows, columns_of
from training.data.formats.text import decode
from training.data.formats.typed import EXCEL, PARQUET, read_excel, read_parquet
from training.data.shapes import Row, find_shape

SUFFIXES = (".json", ".jsonl", ".csv", TABS, EXCEL, PARQUET)
TYPED = {EXCEL: ("Excel", read_excel), PARQUET: ("Parquet", read_parquet)}
MOST_COLUMNS = 1000  # nobody could choose among more; a file that has them is one of another kind
SEPARATOR_NAMES = {",": ("commas", "逗号"), "\t": ("tabs", "制表符"), ";": ("semicolons", "分号")}


@dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        path: the file.
        columns: column names in order of appearance.
        rows: one dictionary a row.
        lines: where each row is: its line, or for a JSON array its number.
        counts_rows: whether ``lines`` holds row numbers.
        bad_rows: what becomes, and what became, of rows that cannot be used.
        encoding: of a text; Excel's or Parquet's name else.
        separator: what stands between the cells of a table in text.
    """

    path: Path
    columns: tuple[str, ...]
    rows: list[Row]
    lines: list[int]
    counts_rows: bool = False
    bad_rows: BadRows = field(default_factory=BadRows)
    encoding: str = "UTF-8"
    separator: str = ""

    @property
    def read_as(self) -> tuple[str, str]:
        """As what the file was read, in English and in Chinese."""
        if self.separator not in SEPARATOR_NAMES:
            return self.encoding, self.encoding
        en, zh = SEPARATOR_NAMES[self.separator]
        return f"{self.encoding}, cells separated by {en}", f"{self.encoding}，单元格以{zh}分隔"

    def place(self, index: int) -> tuple[str, str]:
        """Where row ``index`` is, for a sentence in English and in Chinese."""
        number = self.lines[index]
        return (f"row {number}", f"第 {number} 条") if self.counts_rows else (f"line {number}", f"第 {number} 行")


def read_table(path: str | Path, *, skip_bad_rows: bool = False) -> Table:
    """All rows of a file: JSON (an array, or one object a line), CSV, TSV, the first sheet of a workbook, or Parquet.

    Args:
        path: the file; text may be UTF-8, UTF-16 or GBK.
        skip_bad_rows: leave out rows that cannot be read, and count them in ``bad_rows``.

    Raises:
        DataError: saying in which file and line what is wrong.
    """
    file = Path(path)
    if file.suffix.lower() not in SUFFIXES:
        listed = ", ".join(SUFFIXES)
        raise DataError(
            f"{file.name} is not a data file: expected a name that ends in {listed}.",
            f"{file.name} 不是数据文件：文件名应以 {listed} 结尾。",
        )
    bad_rows = BadRows(skip=skip_bad_rows)
    table = _read(file, _read_bytes(file), bad_rows)
    if len(table.columns) > MOST_COLUMNS:
        raise DataError(
            f"{file.name} has {len(table.columns):,} columns, at most {MOST_COLUMNS:,} are read. Expected one example "
            'a line, such as {"content": "…", "summary": "…"}.',
            f"{file.name} 有 {len(table.columns):,} 列，最多支持 {MOST_COLUMNS:,} 列。"
            '应每行一条样本，例如 {"content": "…", "summary": "…"}。',
        )
    if not table.rows:
        if bad_rows.first:
            raise bad_rows.nothing_left(file.name)
        raise DataError(
            f"{file.name} has a header but no rows. Add at least one example.",
            f"{file.name} 没有任何数据行。请至少添加一条样本。",
        )
    return _in_known_columns(table)


def _read(file: Path, content: bytes, bad_rows: BadRows) -> Table:
    suffix = file.suffix.lower()
    if suffix in TYPED:
        name, read_typed = TYPED[suffix]
        return _as_table(file, read_typed(file, content), bad_rows, name)
    text = decode(file, content)
    if not text.content.strip():
        raise DataError(
            f'{file.name} is empty. Expected one example a line, such as {{"content": "…", "summary": "…"}}.',
            f'{file.name} 是空文件。应每行一条样本，例如 {{"content": "…", "summary": "…"}}。',
        )
    read = read_csv if suffix in (".csv", TABS) else read_json
    return _as_table(file, read(file, text, bad_rows), bad_rows, text.encoding)


def _as_table(file: Path, rows: Rows, bad_rows: BadRows, encoding: str) -> Table:
    bad_rows.counts_rows = rows.counts_rows
    places, separator = rows.places, rows.separator
    return Table(file, rows.columns, rows.rows, places, rows.counts_rows, bad_rows, encoding, separator)


def _in_known_columns(table: Table) -> Table:
    """The table with columns for prompt and answer where its rows have a public data set's shape."""
    unfold = find_shape(table.columns, table.rows)
    if unfold is None:
        return table
    rows, lines = [], []
    for index, number in enumerate(table.lines):
        try:
            unfolded = unfold(table.rows[index])
        except DataError as error:
            place_en, place_zh = table.place(index)
            name = table.path.name
            placed = DataError(f"{name}, {place_en}: {error.en}", f"{name} {place_zh}：{error.zh}")
            table.bad_rows.add(number, placed)
            continue
        rows += unfolded
        lines += [number] * len(unfolded)
    if not rows:
        raise table.bad_rows.nothing_left(table.path.name)
    return replace(table, columns=columns_of(rows), rows=rows, lines=lines)


def _read_bytes(file: Path) -> bytes:
    try:
        with open_regular(file) as opened:
            return opened.read()
    except FileNotFoundError:
        beside = sorted(item.name for item in file.parent.glob("*") if item.suffix.lower() in SUFFIXES)[:3]
        hint_en = f" Beside it there is {', '.join(beside)}." if beside else " Check the path."
        hint_zh = f"同目录下有 {'、'.join(beside)}。" if beside else "请检查路径。"
        raise DataError(f"There is no file {file}.{hint_en}", f"文件 {file} 不存在。{hint_zh}") from None
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}). Check that it is a file and that you may read it.",
            f"无法读取 {file}（{error.strerror}）。请确认它是文件且有读取权限。",
        ) from error
