"""Reports are readable: what a heat map and an axis ask of plotly."""

from __future__ import annotations

from typing import Any

import pytest
from polynix.tools.report.page import MAX_LABELS, MAX_NUMBERED, Page


def heat_map(values: list[list[float]]) -> tuple[dict[str, Any], dict[str, Any]]:
    section = Page("page", "").section("section")
    names = [str(number) for number in range(len(values))]
    section.heat_map("title", names, names, values, "KiB")
    figure = section.parts[0][1]
    return figure["data"][0], figure["layout"]


@pytest.mark.parametrize(("values", "most"), [([[0, 0], [0, 0]], 1), ([[0, 7], [3, 0]], 7), ([[None, 2], [0.5, None]], 2)])
def test_nothing_has_the_colour_of_nothing(values: list[list[float]], most: float) -> None:
    data, _ = heat_map(values)
    assert (data["zmin"], data["zmax"]) == (0, most)


def test_cells_show_their_numbers_while_there_is_room() -> None:
    few, many = [[0.0] * MAX_NUMBERED] * MAX_NUMBERED, [[0.0] * (MAX_NUMBERED + 1)] * (MAX_NUMBERED + 1)
    assert "texttemplate" in heat_map(few)[0]
    assert "texttemplate" not in heat_map(many)[0]


@pytest.mark.parametrize("count", [1, 13, 41, MAX_LABELS])
def test_every_row_and_column_has_a_legible_label(count: int) -> None:
    data, layout = heat_map([[1.0] * count] * count)
    assert len(data["x"]) == len(data["y"]) == count
    for axis in (layout["xaxis"], layout["yaxis"]):
        assert axis["dtick"] == 1 and axis["tickfont"]["size"] >= 8
    assert layout["height"] >= count * (layout["yaxis"]["tickfont"]["size"] + 2)
    assert (layout["xaxis"].get("tickangle") == -90) == (count > MAX_NUMBERED)


def test_of_many_rows_those_with_most_are_shown() -> None:
    count = MAX_LABELS + 50
    data, layout = heat_map([[float(row >= 50 and column < MAX_LABELS) for column in range(count)] for row in range(count)])
    assert data["y"] == [str(number) for number in range(50, count)]
    assert data["x"] == [str(number) for number in range(MAX_LABELS)]
    assert {value for row in data["z"] for value in row} == {1.0}
    assert layout["title"]["text"] == f"title, the {MAX_LABELS} of {count} and {MAX_LABELS} of {count} with most (KiB)"


def test_long_names_are_not_cut() -> None:
    _, layout = heat_map([[1]])
    assert layout["xaxis"]["automargin"] and layout["yaxis"]["automargin"]
    section = Page("page", "").section("section")
    section.figure([], yaxis={"type": "log"})
    assert section.parts[0][1]["layout"]["yaxis"] == {"type": "log", "automargin": True, "dtick": "D2"}
