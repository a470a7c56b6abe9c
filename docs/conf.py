"""How the documentation is built. ``make docs`` needs no network."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from basiq_async import __version__  # noqa: E402

project = "basiq_async"
author = "The basiq_async authors"
copyright = "The basiq_async authors"  # noqa: A001
version = release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_llms_txt",
    "commands",
    "docstrings",
]
exclude_patterns = ["_build", "_ext", "requirements.txt"]
source_suffix = {".md": "markdown"}
nitpicky = True

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.strikethrough"]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# References to other projects need their inventories, which are on the network. Without them such references are plain
# text; those to names of this package are checked either way.
if os.environ.get("DOCS_ONLINE"):
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "aiohttp": ("https://docs.aiohttp.org/en/stable", None),
        "attrs": ("https://www.attrs.org/en/stable", None),
    }
# fmt: off
_BUILTINS = [
    "Any", "AsyncGenerator", "AsyncIterator", "Awaitable", "BaseException", "Callable", "Collection", "Coroutine",
    "Enum", "Exception", "Generator", "Generic", "Iterable", "Iterator", "Literal", "Mapping", "None", "Path",
    "Protocol", "Self", "Sequence", "StrEnum", "T", "TimeoutError", "ValueError", "bool", "bytes", "date", "datetime",
    "dict", "float", "int", "list", "object", "str", "timedelta", "tuple", "type",
    "APIRouter", "AsyncBroker", "JSON",  # FastAPI's, taskiq's, and a recursive alias of ours
]
# fmt: on
# What is no name of this package: the standard library and the dependencies, and type variables.
nitpick_ignore_regex = [
    ("py:.*", r"(?!basiq_async)[a-z_]+\..*"),
    *(("py:.*", name) for name in _BUILTINS),
    ("py:.*", r".*\.(T|H|F|T_co)"),
    # Types that only stand in signatures, and that users do not name.
    ("py:.*", r"basiq_async\.(.*\.)?_.*"),
    ("py:.*", r"DiagnosedReceiver|Clock|TimeSource|Duration|EventTypeId|Stretch|JobFunction|Watcher"),
    ("py:.*", r"SecretText|WriteSecret|Lacking"),
    ("py:.*", r"basiq_async\.(services\.events\.HasLinks|pagination\.Listing)"),
]

html_theme = "furo"
html_title = f"basiq_async {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = True
html_show_sphinx = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True
copybutton_remove_prompts = True

html_baseurl = os.environ.get("READTHEDOCS_CANONICAL_URL", "")  # set by the host that builds it
llms_txt_full_file = False  # .ci/docs makes one of what the directives made
llms_txt_uri_template = "{base_url}text/{docname}.txt"
llms_txt_title = "basiq_async"
llms_txt_summary = "An async-first Python SDK for the webhooks of Basiq, the Australian open-banking platform."
llms_txt_exclude = ["search", "genindex"]


def _call_public_names_by_their_public_modules() -> None:
    """A class is documented where users import it from, and not where its source is."""
    found = []
    for name in (
        "basiq_async.testing",
        "basiq_async.distributed",
        "basiq_async.replay",
        "basiq_async.receiver.protocol",
        "basiq_async.receiver",
        "basiq_async",
    ):
        module = import_module(name)
        found += [(name, getattr(module, public)) for public in module.__all__]
    # All are loaded by now: some modules read the annotations of others by the names of their own module.
    for name, value in found:
        if getattr(value, "__module__", "").startswith("basiq_async"):
            value.__module__ = name


_call_public_names_by_their_public_modules()
