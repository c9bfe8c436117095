"""What people see can be translated, and the catalogue that a translator copies has all of it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).resolve().parent.parent.parent / "sse_app"
TEMPLATES = sorted((APP / "templates").rglob("*.html"))
CATALOGUE = APP / "locale" / "django.pot"

#: As the code calls gettext and its kin.
CALLS = {"_", "gettext", "gettext_lazy", "ngettext", "ngettext_lazy"}
TRANSLATED = re.compile(r"{% translate \"([^\"]+)\"")


def texts() -> Iterator[str]:
    for file in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in CALLS:
                yield from (arg.value for arg in node.args[:2] if is_text(arg))
    for template in TEMPLATES:
        yield from TRANSLATED.findall(template.read_text())


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def catalogue() -> set[str]:
    entries = re.findall(r'^msgid(?:_plural)? ((?:".*"\n)+)', CATALOGUE.read_text(), re.MULTILINE)
    return {"".join(map(ast.literal_eval, entry.splitlines())) for entry in entries}


def test_the_catalogue_has_each_text_of_the_code_and_the_templates() -> None:
    missing = set(texts()) - catalogue()
    assert not missing, f"run `make messages`: the catalogue has not {sorted(missing)}"


def test_english_is_not_translated_into_english() -> None:
    assert [path.name for path in (APP / "locale").rglob("*") if path.is_file()] == ["django.pot"]


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.name)
def test_no_words_of_a_template_are_outside_translate(template: Path) -> None:
    text = template.read_text()
    for code in (
        r"{% blocktranslate.*?{% endblocktranslate %}",
        r"{% block bodyclass %}.*?{% endblock %}",
        r"{% block coltype %}.*?{% endblock %}",
        r"<(script|style)\b.*?</\1>",
        r"{#.*?#}|{%.*?%}|{{.*?}}|<[^>]*>|&\w+;",
    ):
        text = re.sub(code, "", text, flags=re.DOTALL)
    assert re.findall(r"[^\W\d_]{2,}", text) == []


def test_the_names_of_models_can_be_translated() -> None:
    from django.apps import apps
    from django.utils.functional import Promise

    for model in apps.get_app_config("sse_app").get_models():
        options = model._meta
        assert isinstance(options.verbose_name, Promise), options.label
        assert isinstance(options.verbose_name_plural, Promise), options.label
