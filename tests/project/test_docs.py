"""The documentation has every notebook and names only commands that exist; the model card says what
was measured, whatever the sources are called."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from huggingface_hub import ModelCard

from melanoma.core.errors import BadInput
from melanoma.core.files import read_json, write_json
from melanoma.data.disclaimers import MADE_FOR, NOT_A_DIAGNOSIS, NOT_FOR, SKIN_TONES
from melanoma.evaluation.card import write_card
from melanoma.model.checkpoint import load_checkpoint, save_checkpoint
from melanoma.predict.hub import card_licence, refuse_unshareable
from melanoma.run.layout import Run
from melanoma.run.manifest import made_from
from melanoma.run.presets import preset
from melanoma.stages.runner import STAGES, stage_notebook, stage_parameters
from support.commands import REPOSITORY
from support.pages import seen_in

spec = importlib.util.spec_from_file_location("stage", REPOSITORY / "docs" / "stage.py")
stage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stage)
BY_HAND = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> Path:
    "What Sphinx would read."
    stage.lay_out(tmp_path_factory.mktemp("docs") / "source")
    return tmp_path_factory.getbasetemp() / "docs0" / "source"


def menu(page: Path) -> list[Path]:
    "The pages that a page's menus name."
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", text, re.DOTALL)
    names = [n for b in blocks for n in b.split() if not n.startswith(":") and n[0].islower()]
    names += [n for b in blocks for n in b.split() if n[0].isdigit()]
    return [page.parent / n for n in names]


def test_the_menu_reaches_every_notebook(pages):
    sections = [m for m in menu(pages / "index.md") if m.name == "index"]
    listed = {p.relative_to(pages) for m in sections for p in menu(m.with_suffix(".md"))}
    shown = [Path(s, stage.place(n, s)) for s in stage.SECTIONS for n in stage.notebooks(s)]
    assert {p.with_suffix("") for p in shown} <= listed
    there = [n for n in (REPOSITORY / "nbs").glob("*/**/*.ipynb") if n.parent.name[0] != "."]
    assert len(there) == len(shown) > 40
    modules = [p for p in (REPOSITORY / "melanoma").glob("*/*.py") if p.stem[0] != "_"]
    assert {Path("api", f"{p.parent.name}.{p.stem}") for p in modules} <= listed


def test_links_from_one_notebook_to_another_lead_there(pages):
    followed, lost = 0, []
    for notebook in sorted((REPOSITORY / "nbs").glob("*/**/[0-9]*.ipynb")):
        for cell in nbformat.read(notebook, as_version=4).cells:
            found = re.findall(r"\]\(([^)#:]+\.(?:ipynb|md))", cell.source)
            for link in found if cell.cell_type == "markdown" else ():
                followed += 1
                if not (notebook.parent / link).exists():
                    lost.append(f"{notebook.relative_to(REPOSITORY)}: {link}")
    assert followed and not lost


def test_a_page_loads_nothing_from_elsewhere_and_its_formulas_need_no_script(pages, tmp_path):
    "The chapter with the most formulas, built as `make docs` builds all of them."
    pytest.importorskip("latex2mathml", reason="the packages of make docs are not installed")
    source = tmp_path / "source"
    (source / "library").mkdir(parents=True)
    for name in ("stats/05_clustered", "evaluation/05_plots"):
        shutil.copy(pages / "library" / f"{name}.ipynb", source / "library")
    (source / "index.md").write_text("# M\n\n```{toctree}\n:glob:\n\nlibrary/*\n```\n")
    build = [sys.executable, "-m", "sphinx", "-q", "-c", REPOSITORY / "docs", source]
    subprocess.run([*build, tmp_path / "html"], check=True, capture_output=True)
    found = {p.stem: seen_in(p) for p in (tmp_path / "html").rglob("*.html")}
    assert {"05_clustered", "05_plots", "index", "search"} <= found.keys()
    for name, page in found.items():
        assert not [x for x in page.loads if "//" in x], name
        assert "default-src 'self'" in page.policy and "http" not in page.policy, name
    text = (tmp_path / "html/library/05_clustered.html").read_text(encoding="utf-8")
    assert text.count("<math ") >= 3 and "cdn." not in text


def test_nothing_of_nbdev_is_shown_and_no_code_is_lost(pages):
    for notebook in stage.notebooks("library"):
        shown = nbformat.read(pages / "library" / stage.place(notebook, "library"), as_version=4)
        code = "\n".join(c.source for c in shown.cells if c.cell_type == "code")
        assert not re.search(r"^#\|", code, re.MULTILINE)
        was = nbformat.read(notebook, as_version=4)
        left_out = re.compile(r"^#\|\s*(default_exp|hide)\b", re.MULTILINE)
        kept = [c for c in was.cells if c.cell_type == "code" and not left_out.search(c.source)]
        assert len(kept) == sum(c.cell_type == "code" for c in shown.cells), notebook.name


def test_a_hidden_cell_is_not_shown(tmp_path):
    cell = nbformat.v4.new_code_cell
    cells = [
        nbformat.v4.new_markdown_cell("# T"),
        cell("#| hide\nsecret()"),
        cell("#| export\na = 1"),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "10_t.ipynb")
    text = stage.page(tmp_path / "10_t.ipynb", "library")
    assert "secret" not in text and '"a = 1"' in text and '"exported"' in text


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_shows_its_parameters_as_a_table(name, pages):
    notebook = stage_notebook(name)
    shown = nbformat.read(pages / "stages" / notebook.name, as_version=4)
    table = next(c.source for c in shown.cells if "| parameter |" in c.source)
    for parameter, value in stage_parameters(notebook).items():
        assert f"| `{parameter}` | {type(value).__name__} | `{value!r}` |" in table
    assert "name of the run" in table


# commands in the pages


def wrong(line: str) -> list[str]:
    "What a command line names that does not exist."
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        return [w for w in words[1:] if "=" not in w and w not in targets]
    known = stage.commands()
    name = " ".join(words[:3]) if " ".join(words[:3]) in known else " ".join(words[:2])
    if name not in known:
        return [name]
    options = {o for p in known[name].params for o in p.opts} | {"--help"}
    given = [w.partition("=")[0] for w in words if w.startswith("-")]
    missing = [w for w in given if w not in options]
    if "-p" in given:
        # kaggle build takes those of the training notebook
        takes = stage_parameters(stage_notebook(words[1] if words[1] in STAGES else "train"))
        named = [words[i + 1] for i, w in enumerate(words) if w == "-p"]
        missing += [n for n in named if n not in takes]
    return missing


def commands_of(page: Path) -> list[str]:
    "The lines of a page's code, and code within its text, that call melanoma or make."
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^(?:    |\$ |)((?:melanoma|make) [a-z].*)$", text, re.MULTILINE)
    found += [" ".join(f.split()) for f in re.findall(r"`((?:melanoma|make) [a-z][^`]*)`", text)]
    return [line for line in found if "…" not in line]


def test_the_finder_of_wrong_commands_finds_them():
    assert wrong("melanoma train --run r --fold 3") == ["--fold"]
    assert wrong("melanoma trian --run r") == ["melanoma trian"]
    assert wrong("melanoma train --run r -p epoch 3") == ["epoch"]
    assert wrong("make docz") == ["docz"]
    assert not wrong("melanoma fetch isic --limit 3") and not wrong("melanoma train -p epochs 3")


@pytest.mark.parametrize("page", BY_HAND, ids=lambda p: p.stem)
def test_pages_name_only_commands_that_exist(page):
    assert {line: w for line in commands_of(page) if (w := wrong(line))} == {}


def test_pages_name_commands_at_all():
    assert sum(len(commands_of(page)) for page in BY_HAND) > 30


def test_the_command_line_page_has_every_command_and_option(pages):
    text = (pages / "cli.md").read_text()
    for words, command in stage.commands().items():
        part = text.partition(f"## {words}\n")[2].partition("\n## ")[0]
        assert command.help in part
        options = [o for p in command.params for o in p.opts if o.startswith("-")]
        assert all(f"`{o}" in part for o in options if o != "--help"), words
    assert "demo-model" not in text, "a hidden command"
    assert "original" in text and preset("original")


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    version = re.search(
        r"^version = (\S+)", (REPOSITORY / "settings.ini").read_text(), re.MULTILINE
    )
    assert citation["version"] == version[1] and len(citation["references"]) == 4


# the model card


def results(card: ModelCard) -> dict[tuple[str, str], float]:
    "Figures by data and kind, as the library reads them."
    return {(r.dataset_config, r.metric_type): r.metric_value for r in card.data.eval_results}


def test_evaluate_writes_a_card_with_the_measured_figures(trained):
    run = Run.named("tiny", trained)
    card = ModelCard.load(run.folder / "README.md")
    pooled = read_json(run.metrics)["pooled"]
    assert results(card) == {
        ("all sources", "roc_auc"): round(pooled["auroc"], 6),
        ("all sources", "average_precision"): round(pooled["ap"], 6),
    }
    span = f"({pooled['auroc_low']:.3f} to {pooled['auroc_high']:.3f})"
    assert f"| **all, pooled** | {pooled['auroc']:.3f} {span} |" in card.text
    assert "Patients and lesions count as independent" in card.text
    assert "sensitivity at 90 % specificity" in card.text
    assert f"| {pooled['n']:,} | {pooled['positives']:,} |" in card.text
    assert f"{read_json(run.calibration)['a']:.4f}" in card.text
    assert card.data.pipeline_tag == "image-classification" and card.data.library_name == "melanoma"
    for said in (MADE_FOR, NOT_FOR, SKIN_TONES, NOT_A_DIAGNOSIS):
        assert said in card.text
    assert card.data.license == "apache-2.0" and "computer drawings" in card.text
    assert "drawings" in card.data.tags and "`resnet10t`" in card.text
    assert str(trained) not in card.content, "no path of this machine"
    groups = read_json(run.metrics)["by_group"]
    assert set(groups) == {"age", "sex", "anatom_site"}
    assert all(sum(p["n"] for p in g.values()) == pooled["n"] for g in groups.values())
    assert not [line for line in commands_of(run.folder / "README.md") if wrong(line)]


@pytest.fixture
def copy(trained, tmp_path) -> Run:
    "The run's files, to spoil."
    shutil.copytree(trained / "output" / "tiny", tmp_path / "output" / "tiny")
    shutil.copytree(trained / "weights" / "tiny", tmp_path / "weights" / "tiny")
    return Run.named("tiny", tmp_path)


def with_sources(run: Run, *sources: str) -> ModelCard:
    "The card of a run that was prepared from these."
    manifest = read_json(run.store / "manifest.json")
    manifest["parameters"]["sources"] = list(sources)
    write_json(run.store / "manifest.json", manifest)
    return ModelCard.load(write_card(run))


def test_the_licence_is_that_of_the_images(copy):
    assert with_sources(copy, "siim2020=a").data.license == "cc-by-nc-4.0"
    known = with_sources(copy, "ham10000=a", "isic2019=b")
    assert known.data.datasets == ["ham10000", "isic-2019"] and "drawings" not in known.data.tags
    unknown = with_sources(copy, "ham10000=a", "folder=b")
    assert unknown.data.license == "other" and "not known: ask the source" in unknown.text
    assert "ask the owners of `folder`" in unknown.text


def test_the_licence_of_the_initial_weights_counts(copy):
    path = copy.fold_weights(1)
    model, header = load_checkpoint(path)
    save_checkpoint(path, model, header | {"pretrained_licence": "cc-by-nc-nd-4.0"})
    write_json(copy.metrics, read_json(copy.metrics) | {"made_from": made_from(copy)})
    card = with_sources(copy, "ham10000=a")
    assert card.data.license == "cc-by-nc-nd-4.0" and "**CC-BY-NC-ND-4.0**" in card.text
    assert "licence cc-by-nc-nd-4.0." in card.text
    with pytest.raises(BadInput, match="allows no derived works"):
        refuse_unshareable(card_licence(card.content))


HOSTILE = [
    "x\n---\nlicense: mit\n---\n# Approved",
    "| a | b |\n|---|\n<script>alert(1)</script>",
    "`](javascript:alert(1)) ![](http://example.org/x.png)",
    "{name} {0.__class__} %s \u202e" + "z" * 180,
    "",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_name_stays_a_name(copy, name):
    metrics = read_json(copy.metrics)
    part = metrics["pooled"]
    metrics["by_source"] = {name: part, "siim2020": part}
    metrics["by_group"]["sex"] = {name: part | {"auroc": None, "ap": None}}
    write_json(copy.metrics, metrics)
    plain = with_sources(copy, "ham10000=a", "folder=b")
    card = with_sources(copy, f"folder={name or 'x'}/a", f"folder={name or 'x'}/b")
    for found in (plain, card):
        assert found.data.license == "other" and found.data.pipeline_tag == "image-classification"
        assert found.content.count("\n---\n") == 1
        assert "<script>" not in found.content and "](http://example" not in found.content
        assert "](javascript" not in found.content
        heads = [x for x in found.text.splitlines() if x.startswith("# ")]
        assert heads == ["# Melanoma classifier, run `tiny`"]
        rows = [x for x in found.text.splitlines() if x.startswith(("| source `", "| Sex `"))]
        assert len(rows) == 3 and {len(re.findall(r"\|", x)) for x in rows} == {6}


def test_a_run_that_is_not_evaluated_has_no_card(copy):
    copy.metrics.unlink()
    with pytest.raises(ValueError, match="melanoma evaluate --run tiny"):
        write_card(copy)


def test_missing_folds_and_a_flattering_monitor_are_said(copy):
    metrics = read_json(copy.metrics) | {"missing_folds": [3], "monitor": "fold"}
    copy.metrics.write_text(json.dumps(metrics))
    text = write_card(copy).read_text()
    assert "Not trained: folds 3" in text and "these figures are flattered" in text
