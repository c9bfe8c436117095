// The landing page: three panes, and the buttons that try them.

import { attempt, post, read } from "./live.js";
import { Pane, PlainSource, ScriptSource } from "./panes.js";
import { readSlowly } from "./slow.js";

const LOOK_MS = 1000;
const byId = (id) => document.getElementById(id);
const problem = byId("problem");

// By which the server tells this browser's streams from those of others.
function browserName() {
  const fresh = Math.random().toString(36).slice(2, 12);
  try {
    localStorage.browserName ??= fresh;
    return localStorage.browserName;
  } catch {
    return fresh; // No storage: this page counts as a browser of its own.
  }
}

const browser = browserName();

function alsoIn(url, group) {
  const more = new URL(url, location.href);
  more.searchParams.append("group", `${group}.${browser}`);
  return more.href;
}

const serverUrl = `${byId("tabs").dataset.url}?browser=${browser}`;

// A live region that repeats itself, or says all that passes, is switched off by who hears it.
function say(text) {
  if (byId("said").textContent !== text) byId("said").textContent = text;
}

async function press(button, act) {
  button.disabled = true;
  await attempt(act, problem);
  button.disabled = false;
}

// --- the panes ---

const makePlain = Object.assign((url, ears) => new PlainSource(url, ears), { plain: true });
const makeOwn = (url, ears) => new ScriptSource(url, ears, false);
const makeShared = (url, ears) => new ScriptSource(alsoIn(url, "showcase.tabs"), ears, true);

function paneOf(kind, make) {
  const element = document.querySelector(`[data-pane=${kind}]`);
  return new Pane(element, make, kind === "shared" ? undefined : say);
}

const shared = paneOf("shared", makeShared);
const own = [paneOf("plain", makePlain), paneOf("own", makeOwn)];
const panes = [...own, shared];
const pulled = new Set();

function label(pane, button) {
  button.textContent = pulled.has(pane) ? "Plug it in again" : "Pull the plug";
  button.classList.toggle("primary", pulled.has(pane));
}

for (const pane of own) {
  const button = pane.element.querySelector("[data-field=plug]");
  button.addEventListener("click", () =>
    press(button, async () => {
      if (pulled.delete(pane)) pane.plug();
      else {
        pulled.add(pane);
        pane.unplug("unplugged");
        pane.missed(await post(button.dataset.url));
      }
    }).then(() => label(pane, button)),
  );
}

// A browser has six connections to a site, over all tabs: a hidden tab closes its own.
document.addEventListener("visibilitychange", () => {
  for (const pane of own.filter((each) => !pulled.has(each))) {
    if (document.hidden) pane.unplug("resting");
    else pane.plug();
  }
});

shared.plug();
if (!document.hidden) for (const pane of own) pane.plug();

byId("save").addEventListener("click", () => attempt(() => post(byId("save").dataset.url), problem));

byId("wipe").addEventListener("click", ({ target }) => press(target, () => post(target.dataset.url)));

// --- the restart ---

function concludeRestart(began) {
  const here = panes.filter((pane) => pane.plugged);
  const tallies = here.map((pane) => pane.tallyOf("restart"));
  if (!tallies.every((tally, index) => tally?.ended && !began.includes(tally) && here[index].state === "live")) return "";
  const sum = (key) => tallies.reduce((total, tally) => total + tally[key], 0);
  return `All ${here.length} panes are back. Of ${tallies[0].of} events published while no server ran,` +
    ` they lost ${sum("lost")} and got ${sum("repeated")} twice.`;
}

byId("restart")?.addEventListener("click", async ({ target }) => {
  const before = panes.map((pane) => pane.tallyOf("restart"));
  const result = byId("restart-result");
  target.disabled = true;
  if (await attempt(() => post(target.dataset.url), problem)) {
    result.hidden = false;
    result.textContent = "Restarting. The panes say where they are.";
    const look = setInterval(() => {
      const text = concludeRestart(before);
      if (!text) return;
      clearInterval(look);
      result.textContent = text;
      say(text);
      target.disabled = false;
    }, 200);
  } else target.disabled = false;
});

// --- the slow reader ---

const slow = byId("slow");
const reader = byId("slow-reader");

function showSlow({ tally, state, lagged }) {
  const { received = 0, of = byId("slow-bar").max } = tally ?? {};
  byId("slow-bar").value = received;
  reader.hidden = false;
  reader.dataset.state = state;
  if (lagged) reader.dataset.lagged = "yes";
  const server = state === "lagging" ? "The server lets it lag." : "";
  const text = `${received} of ${of} read, ${of - received} behind. ${server}`;
  reader.querySelector("[data-field=text]").textContent =
    state === "caught up" ? `Caught up${lagged ? " after lagging" : ""}: ${tally}.` : text;
}

slow.addEventListener("click", () =>
  press(slow, async () => {
    delete reader.dataset.lagged;
    const tally = await readSlowly({
      url: alsoIn(slow.dataset.stream, "showcase.reader"),
      serverUrl,
      publish: () => post(slow.dataset.url),
      show: showSlow,
    });
    say(`The slow reader has caught up: ${tally}.`);
  }),
);

// --- the tabs ---

// sse.js holds one lock per tab that shares the connection; where it can't, tabs do not share.
async function countTabs() {
  if (!navigator.locks) return "each has its own";
  const { held } = await navigator.locks.query();
  const prefix = `sse_app 2 ${new URL(shared.element.dataset.url, location.href).pathname} `;
  // The path is followed by the user, which is empty for a stranger, and by the tab.
  return held.filter(({ name }) => name.startsWith(prefix) && / \S+$/.test(name.slice(prefix.length))).length;
}

async function lookAtTabs() {
  const tabs = byId("tabs");
  const seen = await read(serverUrl).catch(() => null);
  const shown = { tabs: await countTabs(), shared: seen?.shared ?? "…", streams: seen?.streams ?? "…" };
  for (const [field, value] of Object.entries(shown)) {
    tabs.querySelector(`[data-field=${field}]`).textContent = value;
  }
}

setInterval(() => document.hidden || void lookAtTabs(), LOOK_MS);
void lookAtTabs();
