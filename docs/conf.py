"""Sphinx, for the pages that docs/stage.py lays out in _docs/source."""

import configparser
import dataclasses
import inspect
import re
from pathlib import Path

import fastapi  # noqa: F401  (before autodoc, which imports with TYPE_CHECKING set: pydantic fails then)
from docutils.nodes import SkipNode
from fastcore.docments import docments
from latex2mathml.converter import convert
from numpy.typing import ArrayLike
from pydantic import BaseModel
from sphinx.util.typing import stringify_annotation

settings = configparser.ConfigParser(delimiters=["="])
settings.read(Path(__file__).parents[1] / "settings.ini", encoding="utf-8")

project = "melanoma"
author = settings["DEFAULT"]["author"]
copyright = "2026, " + author
release = version = settings["DEFAULT"]["version"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
nb_execution_mode = "off"  # the outputs that the notebooks hold are shown
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
highlight_language = "text"
pygments_style, pygments_dark_style = "friendly", "github-dark"
suppress_warnings = ["misc.highlighting_failure"]  # a lesson may show broken code on purpose

# docstrings here are plain words with `code`
default_role = "literal"
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": "model_config",
}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
# references are checked inside the package; other packages' inventories need the network
nitpick_ignore_regex = [
    (r"py:.*", r"(?!melanoma\b).*"),
    (r"py:class", r"melanoma\.core\.(parallel\.(Item|Result)|device\.Movable)"),  # type variables
]
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"http://localhost.*"]

html_theme = "furo"
html_title = "melanoma"
html_static_path = ["_static"]
html_css_files = ["melanoma.css"]
html_show_sourcelink = False
# the pages load nothing from elsewhere: MathJax, for the few formulas, would come from a CDN
html_math_renderer = "mathml"
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
POLICY = (
    "default-src 'self' file: data: 'unsafe-inline'; object-src 'none'; base-uri 'none'; "
    "form-action 'self' file:"
)
copybutton_exclude = ".linenos, .gp"
copybutton_selector = "div.highlight pre"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0a636e", "color-brand-content": "#0a636e"},
    "dark_css_variables": {"color-brand-primary": "#7fd0d6", "color-brand-content": "#7fd0d6"},
}


ARRAY = {
    stringify_annotation(ArrayLike, mode) for mode in ("smart", "fully-qualified-except-typing")
}


def as_text(line: str) -> str:
    "Plain words as reStructuredText: what stands outside `code` means itself."
    parts = re.split(r"(`[^`]+`)", line)
    return "".join(p if p.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", p) for p in parts)


def comments(what: str, item: object) -> dict[str, str]:
    "The comments beside the parameters of a function or the fields of a class."
    if inspect.isclass(item) and issubclass(item, BaseModel):
        return {k: f.description for k, f in item.model_fields.items() if f.description}
    if what == "class" and not dataclasses.is_dataclass(item):
        item = item.__init__  # type: ignore[misc]
    try:
        found = docments(item, returns=True)
    except (TypeError, OSError, ValueError, IndexError):  # no Python source: nothing beside it
        return {}
    return {k: " ".join(v.split()) for k, v in found.items() if v and k != "self"}


def add_comments(app, what, name, item, options, lines):
    lines[:] = [as_text(line) for line in lines]
    if what not in ("function", "method", "class", "exception"):
        return
    lines.append("")
    for parameter, text in comments(what, item).items():
        field = "returns" if parameter == "return" else f"param {parameter}"
        lines.append(f":{field}: {as_text(text)}")


def short_arrays(app, what, name, item, options, signature, returned):
    "ArrayLike by its name, not by what numpy makes of it."
    for long in ARRAY:
        signature = signature.replace(long, "ArrayLike") if signature else signature
    return signature, returned


def formula(display):
    "A visitor of formulas of one kind, which writes MathML: browsers draw it themselves."

    def visit(self, node):
        self.body.append(convert(node.astext(), display=display))
        raise SkipNode

    return visit, None


def add_policy(app, pagename, templatename, context, doctree):
    "Tell the browser to load nothing from elsewhere."
    meta = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    context["metatags"] = context.get("metatags", "") + meta


def setup(app):
    app.add_html_math_renderer("mathml", formula("inline"), formula("block"))
    app.connect("html-page-context", add_policy)
    app.connect("autodoc-process-signature", short_arrays)
    app.connect("autodoc-process-docstring", add_comments)
