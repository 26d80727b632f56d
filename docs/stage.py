"""Lays out in _docs/source what Sphinx reads: the pages of docs/, every notebook without its nbdev
directives, and the reference pages of the command line and of the modules."""

import ast
import filecmp
import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import papermill
import typer

ROOT = Path(__file__).resolve().parents[1]
LAYERS = {  # lowest first
    "core": "What knows nothing of lesions",
    "run": "Where a run's files are, and what each was made from",
    "stats": "Functions of numbers",
    "data": "From files to batches",
    "model": "A backbone behind one logit",
    "train": "One fold",
    "evaluation": "From out-of-fold predictions to a report",
    "predict": "From images to probabilities",
    "serve": "HTTP",
    "stages": "Papermill",
    "kaggle": "Kaggle kernels",
    "cli": "The command line",
}
SECTIONS = {
    "library": "nbs",
    "stages": "nbs/pipeline",
    "explore": "nbs/explore",
    "kernels": "nbs/kaggle/kernels",
}
HEADS = {
    "library": "# The library\n\nEach chapter is a notebook that generates one module. Read from "
    "the top: a chapter needs only chapters above it.",
    "stages": "# The stages\n\nPapermill runs these notebooks, `melanoma` calls them with your "
    "parameters. The executed copy stays in the run's folder: its pictures are of your images.",
    "explore": "# Exploring\n\nNotebooks to open in Jupyter and change.",
    "kernels": "# Kaggle kernels\n\nThe notebooks that `melanoma kaggle build` fills in.",
    "api": "# Modules\n\nWhat can be imported, with the comments that stand beside the code.",
}
DIRECTIVE = re.compile(r"^#\|\s*(\w+).*\n?", re.MULTILINE)


def notebooks(section: str) -> list[Path]:
    "The notebooks of a section, in order."
    if section == "library":
        return [n for f in LAYERS for n in sorted((ROOT / "nbs" / f).glob("[0-9][0-9]_*.ipynb"))]
    return sorted((ROOT / SECTIONS[section]).glob("*.ipynb"))


def place(notebook: Path, section: str) -> str:
    "The notebook's page below its section's folder; the library has a folder for each layer."
    return f"{notebook.parent.name}/{notebook.name}" if section == "library" else notebook.name


def module_of(notebook: Path) -> str:
    "LAYER.name of nbs/LAYER/NN_name.ipynb."
    return f"{notebook.parent.name}.{notebook.stem.partition('_')[2]}"


def heading(notebook: Path) -> tuple[str, str]:
    "Title and subtitle."
    text = "".join(json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]["source"])
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    assert title, f"{notebook}: the first cell has no title"
    subtitle = re.search(r"^> (.+)$", text, re.MULTILINE)
    first = next((p for p in text.split("\n\n")[1:] if p.strip()), "")
    return title[1], subtitle[1] if subtitle else " ".join(first.split()).split(". ")[0].rstrip(".")


def cell(text: Any) -> str:
    "Text in a table's cell."
    return " ".join(str(text).split()).replace("|", "\\|")


def table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(r) + " |" for r in [heads, ["---"] * len(heads), *rows])


def parameters(notebook: Path) -> str:
    "A stage's parameters as a table, as papermill finds them."
    rows = []
    for name, p in papermill.inspect_notebook(str(notebook)).items():
        default = repr(ast.literal_eval(p["default"]))
        rows.append([f"`{name}`", p["inferred_type_name"], f"`{cell(default)}`", cell(p["help"])])
    return table(["parameter", "type", "default", ""], rows)


def page(notebook: Path, section: str) -> str:
    "The notebook as it is shown."
    nb = nbformat.read(notebook, as_version=4)
    nb.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    kept = []
    for c in nb.cells:
        tags = c.metadata.get("tags", [])
        found = set(DIRECTIVE.findall(c.source)) if c.cell_type == "code" else set()
        if "parameters" in tags:
            text = f"## Parameters\n\n{parameters(notebook)}"
            c = nbformat.v4.new_markdown_cell(text, id=c.id)
        elif found:
            c.source = DIRECTIVE.sub("", c.source).strip("\n")
            if "hide" in found or not c.source:
                continue
            if "export" in found:
                c.metadata["tags"] = [*tags, "exported"]
        kept.append(c)
    if section == "library":
        text = f"Generates {{py:mod}}`melanoma.{module_of(notebook)}`; cells with a bar are in it."
        kept.insert(1, nbformat.v4.new_markdown_cell(text, id="reference"))
    nb.cells = kept
    return nbformat.writes(nb)


def section_index(section: str, entries: list[tuple[str, str, str]]) -> str:
    "A section's first page: title and subtitle of each page, which stand in the menu too."
    text = HEADS[section]
    parts: dict[str, list[tuple[str, str, str]]] = {}
    for entry in entries:
        layer = re.split("[./]", entry[0])[0] if section in ("library", "api") else ""
        parts.setdefault(layer, []).append(entry)
    for layer, pages in parts.items():
        rows = [[f"[{cell(title)}]({page})", cell(about)] for page, title, about in pages]
        toc = "\n".join(page.rpartition(".")[0] for page, _, _ in pages)
        caption = f":caption: {layer}\n" if layer else ""
        head = f"## {layer}: {LAYERS[layer]}\n\n" if layer else ""
        menu = f"```{{toctree}}\n:hidden:\n{caption}\n{toc}\n```"
        text += f"\n\n{head}{table(['', ''], rows)}\n\n{menu}\n"
    return text


def module_page(module: str, lesson: str) -> str:
    "A module's reference."
    auto = f"```{{eval-rst}}\n.. automodule:: melanoma.{module}\n```"
    return f"# {module}\n\nMade, and shown at work, in [{lesson}](../library/{lesson}).\n\n{auto}\n"


def commands() -> dict[str, Any]:
    "The command line's commands by what is typed, without the hidden ones."
    from melanoma.cli.main import app

    def walk(words: str, command: Any) -> dict[str, Any]:
        inside = getattr(command, "commands", None)
        if inside is None:
            return {words: command}
        below = (walk(f"{words} {k}", v) for k, v in inside.items() if not v.hidden)
        return {k: v for part in below for k, v in part.items()}

    return walk("melanoma", typer.main.get_command(app))


def cli_page() -> str:
    "The command line's reference, from the program itself."
    from melanoma.stages.runner import STAGES

    parts = ["# Command line", "Every command explains itself with `--help`."]
    for words, command in commands().items():
        parts += [f"## {words}", command.help]
        stage = STAGES.get(words.rpartition(" ")[2])
        if stage:
            said = "also takes any parameter of it as `-p NAME VALUE`"
            takes = any("-p" in p.opts for p in command.params)
            parts.append(
                f"Runs the stage [{stage}](stages/{stage}.ipynb)"
                + (f" and {said}." if takes else ".")
            )
        rows = []
        for p in command.params:
            if p.name == "help" or getattr(p, "hidden", False):
                continue
            option = p.param_type_name == "option"
            name = ", ".join(p.opts) if option else (p.metavar or p.name).upper()
            value = f" {p.metavar}" if option and p.metavar else ""
            empty = p.default is None or p.default is False or p.default in ("", (), [])
            given = not p.required and not empty
            values = p.default if isinstance(p.default, list | tuple) else [p.default]
            default = f"`{' '.join(map(str, values))}`" if given else ""
            needed = "required" if p.required else default
            rows.append([f"`{name}{value}`", cell(getattr(p, "help", "") or ""), needed])
        if rows:
            parts.append(table(["", "", "default"], rows))
    return "\n\n".join(parts) + "\n"


def lay_out(source: Path) -> None:
    "Write every page below a folder."
    shutil.copytree(
        ROOT / "docs", source, ignore=shutil.ignore_patterns("*.py", "__pycache__", "_static")
    )
    shutil.copyfile(ROOT / "CONTRIBUTING.md", source / "contributing.md")
    for section in (*SECTIONS, "api"):
        (source / section).mkdir()
    for section in SECTIONS:
        found = notebooks(section)
        for notebook in found:
            path = source / section / place(notebook, section)
            path.parent.mkdir(exist_ok=True)
            path.write_text(page(notebook, section), encoding="utf-8")
        entries = [(place(n, section), *heading(n)) for n in found]
        if entries:
            text = section_index(section, entries)
            (source / section / "index.md").write_text(text, encoding="utf-8")
    if not notebooks("explore"):
        front = source / "index.md"
        front.write_text(front.read_text(encoding="utf-8").replace("explore/index\n", ""))
    modules = {module_of(n): (place(n, "library"), heading(n)[1]) for n in notebooks("library")}
    for module, (lesson, _) in modules.items():
        text = module_page(module, lesson)
        (source / "api" / f"{module}.md").write_text(text, encoding="utf-8")
    entries = [(f"{m}.md", m, about) for m, (_, about) in modules.items()]
    (source / "api" / "index.md").write_text(section_index("api", entries), encoding="utf-8")
    (source / "cli.md").write_text(cli_page(), encoding="utf-8")


def refresh(source: Path) -> None:
    "Lay out anew; a page that is as it was keeps its time, so that Sphinx leaves it alone."
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder) / "source"
        lay_out(fresh)
        new = {p.relative_to(fresh) for p in fresh.rglob("*") if p.is_file()}
        for old in [p for p in source.rglob("*") if p.is_file()]:
            if old.relative_to(source) not in new:
                old.unlink()  # and its page, whose links would go on being checked
                made = source.parent / "html" / old.relative_to(source)
                made.with_suffix(".html").unlink(missing_ok=True)
        for name in sorted(new):
            there = source / name
            if not (there.is_file() and filecmp.cmp(fresh / name, there, shallow=False)):
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(fresh / name, there)


if __name__ == "__main__":
    refresh(ROOT / "_docs" / "source")
