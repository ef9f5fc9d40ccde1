"""The plan of the package: its rooms stand on floors, and a room imports from the floors below it only."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "vfusion3d"
ROOMS = [  # from the ground up
    *("cameras", "runs", "learning", "data", "world", "foundations"),
    *("model", "video", "curation", "training", "evaluation", "study", "experiments"),
    *("miniatures", "stand_ins", "book", "app", "cli"),
]


def room_of(module: str) -> str:
    return module.split(".")[1] if module.startswith("vfusion3d.") else ""


def imports(path: Path) -> set[str]:
    """Every module of the package that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return {module for module in found if room_of(module)}


def test_every_file_stands_in_a_room():
    inside = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert inside == {"__init__", *ROOMS}


def test_rooms_import_only_from_the_floors_below():
    floor = {room: place for place, room in enumerate(ROOMS)}
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in PACKAGE.rglob("*.py")
        for module in imports(path)
        if (room := path.relative_to(PACKAGE).parts[0].removesuffix(".py")) != "__init__"
        and room_of(module) in floor
        and floor[room_of(module)] > floor[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    names = {
        ".".join(("vfusion3d", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
    }
    uses = {
        name: {module if module in names else module.rpartition(".")[0] for module in imports(path)}
        & names.keys() - {name}
        for name, path in names.items()
    }
    left = dict(uses)
    while ground := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in ground:
            del left[name]
    assert not left, f"in or above a circle: {sorted(left)}"
