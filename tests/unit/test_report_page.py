"""Reports are readable: what a heat map and an axis ask of plotly."""

from __future__ import annotations

from typing import Any

import pytest
from polynix.tools.report.page import MAX_NUMBERED, Page


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


def test_long_names_are_not_cut() -> None:
    _, layout = heat_map([[1]])
    assert layout["xaxis"]["automargin"] and layout["yaxis"]["automargin"]
    section = Page("page", "").section("section")
    section.figure([], yaxis={"type": "log"})
    assert section.parts[0][1]["layout"]["yaxis"] == {"type": "log", "automargin": True, "dtick": "D2"}
