"""How Sphinx builds the site: `make docs`, into build/docs/."""

from __future__ import annotations

import sys
from pathlib import Path

import django
from django.conf import settings

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

# The reference imports the app, so Django must be ready; nothing here is read otherwise.
settings.configure(
    SECRET_KEY="for the reference only",
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "channels",
        "sse_app",
    ],
    CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()

from pygments.lexers.templates import HtmlDjangoLexer  # noqa: E402
from sphinx.highlighting import lexers  # noqa: E402

import sse_app  # noqa: E402

lexers["html"] = HtmlDjangoLexer()  # The pages' HTML is that of templates.

project = "sse_app"
author = "the authors of sse_app"
version = release = sse_app.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "manage_commands"]
myst_enable_extensions = ["colon_fence"]
# Deep enough for every heading that a page links to; the anchors are those of GitHub.
myst_heading_anchors = 4
exclude_patterns = ["requirements.txt"]

# In docstrings `this` is code, as in Markdown.
default_role = "literal"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
# Types of other packages are not linked: their inventories would have to be fetched.
nitpick_ignore_regex = [("py:.*", r".*")]

html_theme = "furo"
html_title = "sse_app"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
