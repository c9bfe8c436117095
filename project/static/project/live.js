// One EventSource per page: its state, its counters, its log, and the banners of broadcasts.
// Whatever arrives becomes text, never markup.

const CONTROL = ["sse.open", "sse.reset", "sse.close", "sse.busy"];
const BROADCASTS = ["message", "broadcast"];
const FOR_GOOD = ["auth", "expired", "end"];
const LOG_LINES = 50;
const BANNERS = 3;
const BANNER_MS = 12000;

const byId = (id) => document.getElementById(id);

export function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text; // An event's data need not be JSON.
  }
}

export function timeOf(iso) {
  return new Date(iso).toLocaleTimeString("en-GB");
}

export function showTime(element, iso) {
  element.textContent = timeOf(iso);
  element.dateTime = iso;
}

export async function post(url, body) {
  const headers = { "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(url, { method: "POST", headers, body: body && JSON.stringify(body) });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error([answer.error ?? `The server said ${response.status}.`].flat().join(" "));
  return answer;
}

// Runs a button's or a form's request and shows what went wrong; true if nothing did.
export async function attempt(request, errorElement) {
  let problem = "";
  try {
    await request();
  } catch (error) {
    problem = error instanceof TypeError ? "The server can't be reached. Try again." : error.message;
  }
  errorElement.textContent = problem;
  errorElement.hidden = !problem;
  return !problem;
}

function setState(state, detail = "") {
  const element = byId("state");
  if (element.dataset.state !== state) {
    element.dataset.state = state;
    element.textContent = state;
  }
  byId("state-detail").textContent = detail;
}

function banner(text) {
  const strip = document.createElement("p");
  strip.className = "banner";
  const words = document.createElement("span");
  words.textContent = text;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "×";
  close.setAttribute("aria-label", "Dismiss");
  close.addEventListener("click", () => strip.remove());
  strip.append(words, close);
  const banners = byId("banners");
  banners.append(strip);
  while (banners.children.length > BANNERS) banners.firstElementChild.remove();
  setTimeout(() => strip.remove(), BANNER_MS);
}

function writeLog(name, note, id) {
  const log = byId("event-log");
  if (!log) return;
  const line = document.createElement("li");
  line.dataset.event = name;
  const part = (tag, text) => {
    const element = document.createElement(tag);
    element.className = `log-${tag}`;
    element.textContent = text;
    line.append(element);
    return element;
  };
  part("time", new Date().toLocaleTimeString("en-GB"));
  part("b", name);
  part("code", id.length > 12 ? `…${id.slice(-10)}` : id).title = id;
  part("span", note);
  log.prepend(line);
  while (log.children.length > LOG_LINES) log.lastElementChild.remove();
}

function noteOf(name, data) {
  if (name === "sse.open") {
    return data.recovered ? `caught up, ${data.missed} replayed` : "from now on";
  }
  if (name === "sse.reset") return `${data.group}: ${data.reason}, reading everything again`;
  if (name.startsWith("sse.")) return data.reason ?? "";
  if (typeof data !== "object" || data === null) return String(data);
  if (data.text !== undefined) return String(data.text);
  if (data.pk === undefined) return JSON.stringify(data);
  const changed = Object.entries(data.changed ?? {}).map(([field, [was, is]]) => `${field} ${was} → ${is}`);
  const row = data.fields ?? data;
  return `#${data.pk} ${changed.join(", ") || [row.item, row.customer].filter(Boolean).join(", ")}`;
}

// `handlers` by event name; those in `quiet` are neither logged nor counted. `startOver` is called
// when the page can't know what it missed: it must read everything again.
export function connect(url, handlers, { quiet = [], startOver = () => {} } = {}) {
  const source = new EventSource(url);
  let opened = 0;
  let events = 0;
  let lastId = "";
  let detail = "";

  source.addEventListener("open", () => {
    opened += 1;
    detail = "";
    setState("live");
    byId("reconnect-count").textContent = opened - 1;
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) {
      setState("closed", "the server refused; reload the page to try again");
    } else {
      setState(opened ? "reconnecting" : "connecting", detail);
    }
  });

  const onControl = {
    "sse.open": (data) => data.recovered || startOver(),
    "sse.reset": startOver,
    "sse.busy": (data) => {
      detail = `the server is busy (${data.reason}), coming back in a while`;
    },
    "sse.close": (data) => {
      detail = data.reason;
      if (!FOR_GOOD.includes(data.reason)) return;
      source.close();
      setState("closed", `${data.reason}: reload the page`);
    },
  };
  const names = new Set([...CONTROL, ...BROADCASTS, ...Object.keys(handlers)]);
  for (const name of names) {
    source.addEventListener(name, ({ data: text, lastEventId }) => {
      const data = parse(text);
      onControl[name]?.(data);
      if (typeof data === "object" && data !== null) handlers[name]?.(data);
      if (BROADCASTS.includes(name)) banner(noteOf(name, data));
      if (quiet.includes(name)) return;
      // An event without an id of its own is delivered with the last one that had an id.
      writeLog(name, noteOf(name, data), lastEventId === lastId ? "" : lastEventId);
      lastId = lastEventId;
      if (CONTROL.includes(name)) return;
      events += 1;
      byId("event-count").textContent = events;
    });
  }

  // A page that comes back from the browser's memory has lost its connection.
  addEventListener("pagehide", () => source.close());
  addEventListener("pageshow", (shown) => shown.persisted && location.reload());
  return source;
}

// Reads `url` until it succeeds; whatever arrives meanwhile waits in `queue` and follows.
export class FreshStart {
  #url;
  #apply;
  #queue = null;
  #again = false;

  constructor(url, apply) {
    this.#url = url;
    this.#apply = apply;
  }

  // Runs `change` now, or after the reading that is under way.
  after(change) {
    if (this.#queue) this.#queue.push(change);
    else change();
  }

  async run() {
    if (this.#queue) {
      // What was read so far may be older than this second reset.
      this.#again = true;
      return;
    }
    this.#queue = [];
    let answer;
    do {
      this.#again = false;
      answer = await this.#read();
    } while (this.#again);
    const queue = this.#queue;
    this.#queue = null;
    this.#apply(answer);
    for (const change of queue) change();
  }

  async #read() {
    for (;;) {
      try {
        const response = await fetch(this.#url, { cache: "no-store" });
        if (response.ok) return await response.json();
      } catch {
        // The server is away; so is the stream, and both come back.
      }
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}
