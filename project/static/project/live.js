// What the demo's pages have in common: the state of the stream, its counters, its log, and the
// banners of broadcasts. Whatever arrives becomes text, never markup.

const BROADCASTS = ["message", "broadcast"];
const LOG_LINES = 50;
const BANNERS = 3;
const BANNER_MS = 12000;

const byId = (id) => document.getElementById(id);

export function timeOf(iso) {
  return new Date(iso).toLocaleTimeString("en-GB");
}

export function showTime(element, iso) {
  element.textContent = timeOf(iso);
  element.dateTime = iso;
}

export async function post(url) {
  const headers = { "X-CSRFToken": document.querySelector("meta[name=csrf-token]").content };
  const response = await fetch(url, { method: "POST", headers });
  // A page of a login or a proxy is no answer.
  const answer = await response.json().catch(() => null);
  if (!response.ok || !answer) throw new Error(answer?.error ?? `The server said ${response.status}.`);
  return answer;
}

export async function read(url) {
  const response = await fetch(url, { cache: "no-store" });
  if (!response.ok) throw new Error(`The server said ${response.status}.`);
  return response.json();
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

function showState(state, reason) {
  const element = byId("state");
  const word = state === "open" ? "live" : state;
  if (element.dataset.state !== word) {
    element.dataset.state = word;
    element.textContent = word;
  }
  byId("state-detail").textContent = state === "closed" && reason ? `${reason}: reload the page` : reason;
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

// Follows the page's stream and returns it. `handlers` by event name get objects only; events in
// `quiet` are neither logged nor counted.
export function follow(handlers, { quiet = [] } = {}) {
  const { stream } = document.querySelector("sse-stream");
  let opened = 0;
  let events = 0;
  stream.on("state", (state, { reason }) => {
    showState(state, reason);
    if (state === "open") byId("reconnect-count").textContent = opened++;
  });
  stream.on("*", (data, { event: name, id }) => {
    if (BROADCASTS.includes(name)) banner(noteOf(name, data));
    if (quiet.includes(name)) return;
    writeLog(name, noteOf(name, data), id);
    if (!name.startsWith("sse.")) byId("event-count").textContent = ++events;
  });
  for (const [name, handle] of Object.entries(handlers)) {
    stream.on(name, (data) => typeof data === "object" && data !== null && handle(data));
  }
  return stream;
}
