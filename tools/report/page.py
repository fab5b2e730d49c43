"""A page of sections with tables and plots, written as one self-contained HTML file.

Plots are plotly figures as plain dictionaries (data, layout), drawn by the plotly.js that is copied into the file; the page forbids itself any network by its
content security policy. Text is escaped by the template. Needs the extra ``polynix[report]``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MISSING = "reports need plotly, jinja2 and hdrhistogram: pip install 'polynix[report]'"
MAX_ROWS = 500  # of one table; the JSON file has them all
MAX_NUMBERED = 12  # rows and columns of a heat map whose cells have room for their numbers
MAX_LABELS = 100  # rows and columns of a heat map that have room for legible labels
MAP_PIXELS, LEAST_CELL, MOST_CELL = 800, 10, 22  # of a heat map: what its cells share, and each one's least and most


class ReportError(Exception):
    """The report cannot be written; the text is one line."""


@dataclass
class Table:
    """Rows of cells below headings; numbers stand right."""

    headings: list[str]
    rows: list[list[Any]]

    @property
    def left_out(self) -> int:
        return max(len(self.rows) - MAX_ROWS, 0)


@dataclass
class Section:
    """A heading with paragraphs, plots and tables, in the order in which they were added."""

    title: str
    parts: list[tuple[str, Any]] = field(default_factory=list)  # ("text" | "warning" | "table" | "figure", value)

    def text(self, text: str) -> None:
        self.parts.append(("text", text))

    def warning(self, text: str) -> None:
        self.parts.append(("warning", text))

    def table(self, headings: list[str], rows: list[list[Any]]) -> None:
        self.parts.append(("table", Table(headings, rows)))

    def figure(self, data: list[dict[str, Any]], **layout: Any) -> None:
        """A plot; ``layout`` is plotly's."""
        layout.setdefault("margin", {"l": 90, "r": 20, "t": 40, "b": 60})
        layout.setdefault("height", 380)
        for name in ("xaxis", "yaxis"):
            axis = layout.setdefault(name, {})
            axis.setdefault("automargin", True)  # long names of processes are not cut
            if axis.get("type") == "log":
                axis.setdefault("dtick", "D2")  # 1, 2, 5: all nine digits run into one another
        self.parts.append(("figure", {"data": data, "layout": layout}))

    def heat_map(self, title: str, columns: list[str], rows: list[str], values: list[list[float]], unit: str) -> None:
        """A matrix as colours from zero up, with its numbers where there is room; the first row is at the top. Every row and column has its label; of more
        than MAX_LABELS those with most are shown.
        """
        shown_rows, shown_columns = _most([_sum(row) for row in values]), _most([_sum(column) for column in zip(*values, strict=True)])
        if len(shown_rows) < len(rows) or len(shown_columns) < len(columns):
            title += f", the {len(shown_rows)} of {len(rows)} and {len(shown_columns)} of {len(columns)} with most"
        values = [[values[row][column] for column in shown_columns] for row in shown_rows]
        rows, columns = [rows[row] for row in shown_rows], [columns[column] for column in shown_columns]
        most = max((value for row in values for value in row if value is not None), default=0)
        scale = {"zmin": 0, "zmax": most or 1}  # else a matrix of zeros would have the colour of the middle
        numbers = {"texttemplate": "%{z:,}"} if max(len(columns), len(rows)) <= MAX_NUMBERED else {}
        row_height = min(max(MAP_PIXELS / max(len(rows), 1), LEAST_CELL), MOST_CELL)
        column_width = min(max(MAP_PIXELS / max(len(columns), 1), LEAST_CELL), MOST_CELL)
        labels = {"type": "category", "tickmode": "linear", "dtick": 1}  # all of them: plotly would thin them out
        hover = f"%{{y}} / %{{x}}: %{{z}} {unit}<extra></extra>"
        self.figure(
            [{"type": "heatmap", "x": columns, "y": rows, "z": values, "colorscale": "YlOrRd", "reversescale": True,
              "hovertemplate": hover, **scale, **numbers}],
            title={"text": f"{title} ({unit})"}, height=max(260, int(row_height * len(rows)) + 160),
            xaxis={**labels, "tickfont": {"size": _font(column_width)}, **({"tickangle": -90} if len(columns) > MAX_NUMBERED else {})},
            yaxis={**labels, "tickfont": {"size": _font(row_height)}, "autorange": "reversed"},
        )  # fmt: skip


class Page:
    """A report in the making."""

    def __init__(self, title: str, subtitle: str) -> None:
        self.title = title
        self.subtitle = subtitle
        self.sections: list[Section] = []

    def section(self, title: str) -> Section:
        self.sections.append(Section(title))
        return self.sections[-1]

    def html(self) -> str:
        """The whole file. Errors: ReportError when a library is missing."""
        try:
            import jinja2
            from plotly.offline import get_plotlyjs
        except ImportError as error:
            raise ReportError(MISSING) from error
        loader = jinja2.PackageLoader("polynix.tools.report", ".")
        environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
        figures = [value for section in self.sections for kind, value in section.parts if kind == "figure"]
        # "</" would end the script element that holds the JSON.
        data = json.dumps(figures, allow_nan=False, default=float).replace("</", "<\\/")
        template = environment.get_template("page.html")
        return template.render(page=self, figures=data, plotly=get_plotlyjs(), limit=MAX_ROWS, is_number=_is_number, shown=_shown)

    def write(self, path: str) -> None:
        """Write the file, whole or not at all. Errors: ReportError."""
        write_text(path, self.html())


def write_text(path: str, text: str) -> None:
    """Replace ``path`` by ``text``, whole or not at all. Errors: ReportError."""
    directory = os.path.dirname(os.path.abspath(path))
    try:
        if not os.path.isfile(path) and os.path.exists(path):  # a pipe, /dev/stdout
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
            return
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=directory, prefix=".polynix-report-", delete=False) as file:
            try:
                file.write(text)
                file.flush()
                mask = os.umask(0)
                os.umask(mask)
                os.fchmod(file.fileno(), 0o666 & ~mask)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise ReportError(f"cannot write {path}: {error.strerror}") from error


def check_writable(path: str | None) -> None:
    """Find out before a long run that a report can be written after it. Errors: ReportError."""
    if path is None:
        return
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(path) or not os.path.isdir(directory) or not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise ReportError(f"cannot write {path}")


def check_libraries() -> None:
    """Find out before a long run that its report can be made. Errors: ReportError."""
    import importlib.util

    if any(importlib.util.find_spec(name) is None for name in ("plotly", "jinja2", "hdrh")):
        raise ReportError(MISSING)


def _sum(values: Iterable[float | None]) -> float:
    return sum(value for value in values if value is not None)


def _most(sums: list[float]) -> list[int]:
    """Indices of the MAX_LABELS biggest, in their order."""
    return sorted(sorted(range(len(sums)), key=lambda index: -sums[index])[:MAX_LABELS])


def _font(cell: float) -> int:
    """Size of a label that stands beside a cell of so many pixels."""
    return min(12, int(cell) - 2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
