// The dashboard in the admin: shows the events of its stream. All values are inserted as text, never as markup.

const page = JSON.parse(document.getElementById("sse-dashboard").textContent);
const { urls, may, texts } = page;
const locale = document.documentElement.lang || undefined;
const POINTS = 120;
const SILENT_MS = 5000;
const BLIP_MS = 1500;
const TYPING_MS = 300;

const find = (selector) => document.querySelector(selector);
const translated = (name, ...values) => values.reduce((text, value) => text.replace("%s", value), texts[name]);

// --- numbers ---

const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });

const number = (value) => (value !== 0 && Math.abs(value) < 10 ? fine : whole).format(value);
const rate = (value) => translated("per_second", number(value));

function bytes(value) {
  const units = ["B", "KB", "MB", "GB", "TB"];
  let unit = 0;
  for (; value >= 1000 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${(unit && value < 100 ? fine : whole).format(value)} ${units[unit]}`;
}

function span(seconds) {
  const parts = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const at = parts.findIndex(([, size]) => seconds >= size);
  if (at < 0) return "0 s";
  const [[name, size], next] = [parts[at], parts[at + 1]];
  const rest = next ? Math.floor((seconds % size) / next[1]) : 0;
  return `${Math.floor(seconds / size)} ${name}${rest ? ` ${rest} ${next[0]}` : ""}`;
}

// --- elements: unchanged ones are not touched, so that focus, selection and scrolling stay ---

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function mark(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

/** Keeps one child of `body` for each of `items`, created by `make` and changed by `update`. */
class List {
  constructor(body, key, make, update, none = "") {
    Object.assign(this, { body, key, make, update, none, children: new Map() });
  }

  show(items) {
    const keys = new Set(items.map(this.key));
    for (const [key, child] of this.children) {
      if (!keys.has(key)) {
        child.remove();
        this.children.delete(key);
      }
    }
    const focused = document.activeElement;
    this.empty(items.length === 0);
    items.forEach((item, at) => {
      let child = this.children.get(this.key(item));
      if (!child) {
        child = this.make(item);
        this.children.set(this.key(item), child);
      }
      this.update(child, item);
      if (this.body.children[at] !== child) this.body.insertBefore(child, this.body.children[at] ?? null);
    });
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  }

  empty(isEmpty) {
    const there = this.body.querySelector(":scope > .sse-empty");
    if (!isEmpty) there?.remove();
    else if (!there && this.none) {
      const cell = element("td", { colspan: "20", class: "quiet" }, texts[this.none]);
      this.body.append(element("tr", { class: "sse-empty" }, cell));
    }
  }
}

const table = (name, key, cells, update) =>
  new List(
    find(`tbody[data-list=${name}]`),
    key,
    (item) => {
      const row = element("tr");
      cells.forEach((kind, at) => {
        const cell = element(at === 0 ? "th" : "td", kind ? { class: kind } : {});
        if (at === 0) cell.scope = "row";
        row.append(cell);
      });
      return row;
    },
    update,
    `none.${name}`,
  );

// --- the charts ---

const series = [];

function draw() {
  ["published", "delivered"].forEach((name, at) => {
    const chart = find(`[data-chart=${name}]`);
    const values = series.map((point) => point[at + 1]);
    const most = Math.max(1, ...values);
    const x = (index) => POINTS - values.length + 1 + index;
    const y = (value) => (39 - (value / most) * 37).toFixed(2);
    const line = values.map((value, index) => `${index ? "L" : "M"}${x(index)} ${y(value)}`).join("");
    chart.querySelector(".sse-line").setAttribute("d", line);
    const area = values.length ? `${line}L${x(values.length - 1)} 40L${x(0)} 40Z` : "";
    chart.querySelector(".sse-area").setAttribute("d", area);
    write(chart.querySelector(".sse-chart-now"), rate(values.at(-1) ?? 0));
    write(chart.querySelector(".sse-chart-most"), translated("most", rate(Math.max(0, ...values))));
  });
}

function point(at, published, delivered) {
  if (series.length && at <= series.at(-1)[0]) return;
  series.push([at, published, delivered]);
  if (series.length > POINTS) series.shift();
}

// --- the figures ---

const figures = new List(
  find("[data-list=figures]"),
  (figure) => figure.name,
  ({ name }) => {
    const hint = texts[`hint.${name}`];
    const made = element("div", { "data-figure": name, ...(hint ? { title: hint } : {}) });
    made.append(element("dt", {}, texts[`figure.${name}`]), element("dd"), element("dd", { class: "sse-more" }));
    return made;
  },
  (child, { value, more, alarming }) => {
    write(child.children[1], value);
    write(child.children[2], more);
    child.classList.toggle("sse-alarm", Boolean(alarming));
  },
);

/** Rates are known, and drawn, from the second report of a process on. */
function addTotals(totals) {
  if (totals.is_known) point(totals.at, totals.published, totals.delivered);
}

function showTotals(totals) {
  addTotals(totals);
  draw();
  const states = Object.entries(totals.open);
  const some = states.filter(([, count]) => count).map(([state, count]) => `${number(count)} ${texts[`state.${state}`].toLowerCase()}`);
  const counted = ["lagged", "superseded", "stalled", "heals", "resets"].map((name) => {
    const recent = totals.recent[name] ?? 0;
    return {
      name,
      value: number(totals.counts[name] ?? 0),
      more: recent ? translated("recent", `+${number(recent)}`) : "",
      alarming: recent && name !== "heals",
    };
  });
  figures.show([
    { name: "open", value: number(states.reduce((sum, [, count]) => sum + count, 0)), more: some.join(", ") },
    { name: "bytes", value: translated("per_second", bytes(totals.bytes)), more: "" },
    { name: "waiting", value: bytes(totals.waiting.bytes ?? 0), more: "" },
    ...counted,
  ]);
}

// --- the tables ---

const SILENT_SECONDS = 8;

const processes = table(
  "processes",
  (process) => process.name,
  ["", "sse-nowrap", "", "", "", "sse-number", "sse-number", "sse-number", "sse-number"],
  (row, process) => {
    const { health } = process;
    const silent = process.seen > SILENT_SECONDS;
    const lag = health.loop_lag ?? 0;
    const state = health.draining ? texts.draining : texts[health.hub ? "hub.on" : "hub.off"];
    const cells = [
      `${process.host} ${process.pid}`,
      process.server,
      silent ? translated("silent", span(process.seen)) : state,
      health.layer ?? "",
      translated("lag", `${whole.format(lag * 1000)} ms`),
      number(process.open),
      rate(process.delivered),
      bytes(process.waiting.bytes ?? 0),
      span(Date.now() / 1000 - process.started_at),
    ];
    cells.forEach((text, at) => write(row.children[at], text));
    const levels = [silent || health.draining ? "warn" : "good", health.layer === "ok" ? "good" : "bad", lag > 0.5 ? "bad" : lag > 0.1 ? "warn" : "good"];
    levels.forEach((level, at) => mark(row.children[at + 2], "data-level", level));
  },
);

const groups = table("groups", (group) => group.name, ["", "sse-number", "sse-number", "sse-number"], (row, group) => {
  const name = row.children[0];
  if (!name.firstChild) {
    const link = urls.group.replace("GROUP", encodeURIComponent(group.name));
    name.append(may.read ? element("a", { href: link }, group.name) : group.name);
  }
  write(row.children[1], number(group.subscribers));
  write(row.children[2], rate(group.published));
  write(row.children[3], rate(group.delivered));
});

function buttons(cell, stream) {
  const query = new URLSearchParams({ stream: stream.id, group: stream.groups[0] ?? "" });
  const why = element("a", { href: `${urls.explain}?${query}`, "aria-label": translated("explain.of", stream.id) }, texts.explain);
  cell.append(why);
  if (!may.end || stream.state === "closed") return;
  const who = stream.user || stream.user_key || texts.anonymous;
  const end = (label, title, subject, ask) => {
    const button = element("button", { type: "button", class: "sse-link", "aria-label": title }, label);
    button.addEventListener("click", () => confirmEnd(ask, who, subject));
    cell.append(button);
  };
  end(texts.end, translated("end.of", stream.id), { stream: stream.id }, "ask.stream");
  if (stream.user_key) end(texts.end_user, translated("end_user.of", who), { user: stream.user_key }, "ask.user");
}

const streams = table(
  "streams",
  (stream) => `${stream.id} ${stream.state === "closed"}`,
  ["", "", "sse-groups", "sse-from", "sse-number", "sse-number", "sse-number", "sse-number", "sse-actions"],
  (row, stream) => {
    const [user, state, names, from, age, sent, queue, lag, actions] = row.children;
    mark(row, "data-stream", stream.id);
    write(user, stream.user || stream.user_key || texts.anonymous);
    user.classList.toggle("quiet", !stream.user_key);
    const filter = stream.events.length ? ` (${translated("filter", stream.events.join(", "))})` : "";
    write(names, stream.groups.join(", ") + filter);
    if (!from.firstChild) from.append(stream.address, element("span", { class: "quiet" }, stream.process));
    write(state, texts[`state.${stream.state}`] + (stream.reason ? ` (${stream.reason})` : ""));
    mark(state, "data-state", stream.state);
    write(age, span((stream.closed_at ?? Date.now() / 1000) - stream.opened_at));
    write(sent, bytes(stream.bytes));
    write(queue, bytes(stream.queue));
    write(lag, number(stream.lag));
    if (!actions.firstChild) buttons(actions, stream);
  },
);

function count(name, shown, all) {
  const text = texts[`count.${name}`].replace("%(shown)s", number(shown)).replace("%(count)s", number(all));
  write(find(`[data-count=${name}]`), text);
}

// --- ending streams ---

const dialog = find(".sse-dialog");

function confirmEnd(ask, who, { stream = "", user = "" }) {
  write(dialog.querySelector("h2"), translated(ask, who));
  write(dialog.querySelector("p"), texts[`${ask}.more`]);
  dialog.querySelector("[name=stream]").value = stream;
  dialog.querySelector("[name=user]").value = user;
  dialog.showModal();
}

function showMessage(text, failed = false) {
  const message = find("[data-testid=said]");
  message.hidden = false;
  message.dataset.failed = failed;
  write(message, text);
}

dialog.querySelector("[data-do=cancel]").addEventListener("click", () => dialog.close());
dialog.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  dialog.close();
  try {
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    const isJson = answer.headers.get("Content-Type")?.startsWith("application/json");
    showMessage(isJson ? (await answer.json()).said : translated("failed", answer.status), !(isJson && answer.ok));
  } catch (error) {
    showMessage(translated("failed", error.message), true);
  }
});

// --- the stream ---

let source = null;
let paused = false;
let feed = "connecting";
let receivedAt = performance.now();
let lostTimer = 0;

function setState(name) {
  feed = name;
  const shown = paused && name === "live" ? "paused" : name;
  const state = find("[data-testid=feed]");
  mark(state, "data-state", shown);
  write(state, texts[`feed.${shown}`]);
}

function connectionLost() {
  lostTimer ||= setTimeout(() => setState("reconnecting"), BLIP_MS);
}

function received() {
  receivedAt = performance.now();
  clearTimeout(lostTimer);
  lostTimer = 0;
}

function end() {
  source?.close();
  source = null;
  clearTimeout(lostTimer);
  setState("auth");
}

const shows = {
  chart: (points) => {
    series.length = 0;
    points.forEach((values) => point(...values));
  },
  totals: showTotals,
  processes: (rows) => processes.show(rows),
  groups: ({ rows, count: all }) => {
    groups.show(rows);
    count("groups", rows.length, all);
  },
  streams: ({ rows, count: all }) => {
    streams.show(rows);
    count("streams", rows.length, all);
  },
};
const held = new Map();

function connect() {
  source?.close();
  receivedAt = performance.now();
  const own = (source = new EventSource(`${urls.feed}?${new URLSearchParams(chosen())}`));
  for (const [name, show] of Object.entries(shows)) {
    own.addEventListener(name, (event) => {
      received();
      // Only now there are figures: a middleware or a proxy may let the first event pass and hold the rest.
      if (name === "totals") setState("live");
      // While the page is hidden or paused, only the last event of each kind is kept, and shown later.
      if (document.hidden || (paused && name !== "chart" && name !== "totals")) held.set(name, event.data);
      else show(JSON.parse(event.data));
      if (name === "totals" && document.hidden) addTotals(JSON.parse(event.data));
    });
  }
  own.addEventListener("away", () => {
    received();
    setState("away");
  });
  own.addEventListener("sse.close", (event) => {
    if (JSON.parse(event.data).reason === "auth") end();
  });
  own.addEventListener("error", () => {
    if (own !== source) return;
    if (own.readyState === EventSource.CLOSED) refused();
    else connectionLost();
  });
}

/** After an answer that is not a stream the browser gives up: find out whether the permission is missing. */
async function refused() {
  connectionLost();
  const asked = new AbortController();
  try {
    const answer = await fetch(urls.feed, { signal: asked.signal });
    asked.abort();
    if (answer.status === 403) end();
  } catch {
    // The interval below tries again.
  }
}

setInterval(() => {
  if (source && performance.now() - receivedAt > SILENT_MS) {
    setState("reconnecting");
    connect();
  }
}, 1000);

function catchUp() {
  if (document.hidden) return;
  for (const [name, text] of held) {
    if (paused && name !== "chart" && name !== "totals") continue;
    held.delete(name);
    shows[name](JSON.parse(text));
  }
}

document.addEventListener("visibilitychange", catchUp);

find("[data-do=pause]").addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", paused);
  write(event.target, texts[paused ? "resume" : "pause"]);
  setState(feed);
  catchUp();
});

// --- the choice of listed streams, kept in the URL of the page for reloads ---

const form = find(".sse-choice");
const chosen = () => [...new FormData(form)].filter(([, value]) => value);

for (const [name, value] of new URLSearchParams(location.search)) {
  const field = form.elements.namedItem(name);
  if (field && (field.type === "search" || [...field.options].some((option) => option.value === value))) field.value = value;
}

function choose() {
  const query = new URLSearchParams(chosen());
  history.replaceState(null, "", `${location.pathname}?${query}`);
  connect();
}

let typing = 0;
form.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(choose, TYPING_MS);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(typing);
  choose();
});

connect();
