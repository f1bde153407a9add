"""Tables in CSV as corpora publish them: with and without a header, with comments, with blanks after commas."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def read_table(
    path: Path, columns: Sequence[str], *, numbers: Sequence[str] = (), header: bool = False, comments: bool = False
) -> Iterator[dict[str, Any]]:
    """Lines of a CSV file in UTF-8, by column.

    Args:
      columns: all of them in the file's order; with `header`, those that are needed, whatever others there are.
      numbers: those of them that become floats.
      header: the first line has the columns' names.
      comments: lines that begin with # are none of the table.

    Raises:
      ValueError: not such a table; the line's number is named.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, skipinitialspace=True)
        try:
            names = next(reader, []) if header else list(columns)
            if missing := [column for column in columns if column not in names]:
                raise ValueError(f"{path}: got columns {', '.join(names) or 'none'}; {', '.join(missing)} is missing")
            for cells in reader:
                if not cells or (comments and cells[0].startswith("#")):
                    continue
                if len(cells) != len(names):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: got {len(cells)} cells, expected {len(names)} "
                        f"({', '.join(names)}); correct it, with quotes around text that has commas"
                    )
                row = dict(zip(names, cells, strict=True))
                if bad := [f"{row[column]!r} in {column}" for column in numbers if not _is_number(row[column])]:
                    raise ValueError(f"{path}, line {reader.line_num}: got {bad[0]}, expected a number; correct it")
                yield row | {column: float(row[column]) for column in numbers}
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: is no CSV file in UTF-8 ({error}); download it again") from error


def _is_number(cell: str) -> bool:
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False
