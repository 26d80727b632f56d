"""The library's layout in numbers: modules per layer, imports between them, lengths of modules and
of export cells.

    python benchmarks/layout.py [CHECKOUT]      # another checkout, to compare with
"""

import argparse
import ast
import json
import re
import statistics
from pathlib import Path


def export_cells(notebook: Path) -> list[int]:
    "Lines of each cell that goes into a module, without those that only import."
    found = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code" and re.match(r"#\|\s*export", text):
            body = re.sub(r"^#\|.*\n", "", text).strip()
            if not all(isinstance(n, ast.Import | ast.ImportFrom) for n in ast.parse(body).body):
                found.append(len(body.splitlines()))
    return found


def imports(module: Path, package: Path) -> set[str]:
    "The package's modules that a module imports, as paths without suffix."
    found, inside = set(), module.relative_to(package).parent.parts
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        parts = (node.module or "").split(".") if node.module else []
        if node.level:
            parts = [*inside[: len(inside) - node.level + 1], *parts]
        elif parts[:1] == [package.name]:
            parts = parts[1:]
        else:
            continue
        names = [[*parts], *([*parts, a.name] for a in node.names)]
        found |= {"/".join(n) for n in names if package.joinpath(*n).with_suffix(".py").is_file()}
    return found


def main(checkout: Path) -> None:
    "Print the table."
    package = checkout / "melanoma"
    modules = [p for p in sorted(package.rglob("*.py")) if p.stem[0] != "_"]
    layers: dict[str, list[Path]] = {}
    for module in modules:
        layers.setdefault(module.relative_to(package).parent.as_posix(), []).append(module)
    lengths = {m: len(m.read_text(encoding="utf-8").splitlines()) for m in modules}
    for layer, inside in layers.items():
        names = ", ".join(m.stem for m in inside)
        print(f"{'.' if layer == '.' else layer:12} {len(inside):3} modules  {names}")
    arrows = {(m, other) for m in modules for other in imports(m, package)}
    longest = max(lengths, key=lengths.__getitem__)
    notebooks = [n for n in checkout.glob("nbs/**/[0-9]*.ipynb") if ".ipynb_" not in str(n)]
    cells = sorted(n for notebook in notebooks for n in export_cells(notebook))
    over = sum(n > 300 for n in lengths.values())
    print(
        f"{len(modules)} modules, {sum(lengths.values()):,} lines, {len(arrows)} imports between "
        f"them\nlongest module: {longest.relative_to(checkout)}, {lengths[longest]} lines; "
        f"{over} over 300\n"
        f"export cells: {len(cells)}, median {statistics.median(cells):.0f} lines, "
        f"p90 {cells[int(0.9 * len(cells))]}, longest {cells[-1]}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(), help="a folder")
    main(parser.parse_args().checkout.resolve())
