"""Numbers in the prose are held by something: an executed cell, a committed table, a profile, the paper's numbers."""

import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NUMBER = re.compile(r"(?<![\w.,])[-+−]?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?(?![\w]|[.,]\d)")
PAIR = re.compile(r"(?<![\w.])([-+−]?\d*\.?\d+) ± (\d*\.?\d+)")
HELD_IN = ("figures/*/*.csv", "vfusion3d/**/*.csv", "vfusion3d/**/*.yaml", "vfusion3d/weights/**/*.json")
PROSE = {path.stem: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
PROSE |= {path.stem: path for path in (ROOT / "README.md", ROOT / "docs" / "results.md")}


def value(text: str) -> tuple[float, int]:
    """A number without its sign, and how many decimals it was given with."""
    text = text.replace("−", "-").replace(",", "").lstrip("+-")
    return float(text), len(text.partition(".")[2])


@cache
def lines() -> list[tuple[str, list[float]]]:
    """Every line that a cell printed or a table holds, with its numbers without signs."""
    texts = [path.read_text() for pattern in HELD_IN for path in ROOT.glob(pattern)]
    for path in (ROOT / "papermill_runs").glob("*/*.ipynb"):
        for cell in json.loads(path.read_text())["cells"]:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                texts += ["".join(part) for kind, part in data.items() if kind.startswith("text/")]
                texts.append("".join(output.get("text", "")))
    found = dict.fromkeys(line for text in texts for line in re.split(r"\n|</tr>", text))
    of_line = re.compile(r"\d[\d,]*\.?\d*(?:e-?\d+)?")
    return [(line, [float(n.replace(",", "").rstrip(".")) for n in of_line.findall(line)]) for line in found]


@cache
def all_numbers() -> frozenset[float]:
    return frozenset(number for _, of_line in lines() for number in of_line)


def is_near(number: float, held: float, decimals: int) -> bool:
    """Whether it is what `held` is rounded to, as a number or as a percentage."""
    return any(abs(number - held * factor) <= 0.5000001 * 10**-decimals for factor in (1, 100))


@cache
def held_alone(text: str) -> bool:
    number, decimals = value(text)
    return any(is_near(number, held, decimals) for held in all_numbers())


@cache
def held_together(first: str, second: str) -> bool:
    """A mean and its error stand in one line."""
    wanted = value(first), value(second)
    return any(all(any(is_near(*one[:1], held, one[1]) for held in of) for one in wanted) for _, of in lines() if of)


def prose_of(path: Path) -> str:
    if path.stem == "results":
        return path.read_text()
    if path.suffix == ".md":
        (section,) = re.findall(r"## The bundled weights\n(.*?)\n## ", path.read_text(), re.DOTALL)
        return section
    cells = json.loads(path.read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def unheld(text: str) -> list[str]:
    text = re.sub(r"```.*?```|`[^`]*`|\$[^$]*\$|\(http[^)]*\)|^> .*$", "", text, flags=re.DOTALL | re.MULTILINE)
    missing = [f"{a} ± {b}" for a, b in PAIR.findall(text) if not held_together(a, b)]
    alone = [whole.group().lstrip("+-−") for whole in NUMBER.finditer(PAIR.sub("", text))]
    telling = [one for one in alone if "." in one or value(one)[0] > 100]
    return missing + [one for one in telling if not held_alone(one)]


@pytest.mark.parametrize("name", PROSE)
def test_every_number_of_the_prose_is_in_an_executed_cell_or_a_committed_file(name):
    found = unheld(prose_of(PROSE[name]))
    assert not found, found


def test_a_number_that_nothing_holds_is_found():
    assert unheld("by 1234.567 and +77.123 ± 0.4567 dB") == ["+77.123 ± 0.4567", "1234.567"]
