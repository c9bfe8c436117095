// A pane: one stream, what came by it, and what that proves. Everything shown is counted here.

import { connect } from "../sse_app/sse.js";
import { read } from "./live.js";

const NAMES = ["order.created", "order.updated", "order.deleted", "showcase.number", "showcase.last"];
const CONTROL = ["sse.open", "sse.reset", "sse.close", "sse.busy"];
const LOG_LINES = 5;
const RUNS_KEPT = 20;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Which numbers of one run have come. */
export class Tally {
  #seen = new Set();
  repeated = 0;
  last = 0;

  constructor({ of, why }) {
    this.of = of;
    this.why = why;
  }

  take(n) {
    if (this.#seen.has(n)) this.repeated += 1;
    this.#seen.add(n);
    this.last = n;
  }

  get received() {
    return this.#seen.size;
  }

  // They come in order: after the last one nothing of the run is on its way.
  get ended() {
    return this.last === this.of;
  }

  get lost() {
    return this.of - this.received;
  }

  get clean() {
    return this.lost === 0 && this.repeated === 0;
  }

  toString() {
    return this.ended
      ? `${this.received} events, ${this.lost} lost, ${this.repeated} repeated`
      : `${this.received} of ${this.of} events`;
  }
}

/** Read by the browser's own EventSource; `hear` and `turn` are the pane's. */
export class PlainSource {
  #source;

  constructor(url, { hear, turn }) {
    this.cursor = new URL(url).searchParams.get("last_event_id") ?? "";
    this.#source = new EventSource(url);
    for (const name of [...NAMES, ...CONTROL]) {
      this.#source.addEventListener(name, ({ data, lastEventId }) => {
        this.cursor = lastEventId || this.cursor;
        const value = JSON.parse(data);
        if (name === "sse.open") turn("live");
        hear(name, value, lastEventId);
        // An EventSource would ask for ever.
        if (name === "sse.close" && ["auth", "expired"].includes(value.reason)) this.close();
      });
    }
    this.#source.addEventListener("error", () => {
      turn(this.#source.readyState === EventSource.CLOSED ? "closed" : "reconnecting");
    });
  }

  close() {
    this.#source.close();
  }
}

/** Read by the page's script, with its own connection or the shared one. */
export class ScriptSource {
  #stream;

  constructor(url, { hear, turn, reset }, share) {
    this.#stream = connect(url, { share, reset });
    this.#stream.on("*", (data, { event, id }) => hear(event, data, id));
    this.#stream.on("state", (state, { reason }) => turn(state === "open" ? "live" : state, reason));
  }

  get cursor() {
    return this.#stream.cursor;
  }

  close() {
    this.#stream.close();
  }
}

/** `make(url, ears)` makes its source; `tell(text)` says what came of a button. */
export class Pane {
  #source = null;
  #cursor = "";
  #runs = new Map();
  #events = 0;
  #returns = -1;
  #away = 0;
  #pulled = "";

  constructor(element, make, tell = () => {}) {
    this.element = element;
    this.make = make;
    this.tell = tell;
  }

  get plugged() {
    return this.#source !== null;
  }

  get state() {
    return this.#field("state").dataset.state;
  }

  tallyOf(why) {
    return [...this.#runs.values()].findLast((tally) => tally.why === why);
  }

  /** Connect, where it went on before if it did. */
  plug() {
    if (this.#source) return;
    const url = new URL(this.element.dataset.url, location.href);
    if (this.#cursor) url.searchParams.set("last_event_id", this.#cursor);
    this.#turn(this.#cursor ? "reconnecting" : "connecting");
    // Ignore messages of a source that was closed.
    const mine = (fn) => (...args) => source === this.#source && fn(...args);
    const source = this.make(url.href, {
      hear: mine((...args) => this.#hear(...args)),
      turn: mine((...args) => this.#turn(...args)),
      reset: (lost) => this.#startOver(lost),
    });
    this.#source = source;
  }

  /** Close the connection and keep the place. */
  unplug(state) {
    const source = this.#source;
    if (!source) return;
    this.#cursor = source.cursor;
    this.#source = null;
    source.close();
    this.#turn(state);
  }

  /** Expect a run that was published while it was out. */
  missed({ run, of }) {
    this.#pulled = run;
    this.judge(`Unplugged. ${of} events were published meanwhile.`, "warn");
  }

  judge(text, kind) {
    const verdict = this.#field("verdict");
    verdict.textContent = text;
    verdict.dataset.kind = kind;
  }

  #field(name) {
    return this.element.querySelector(`[data-field=${name}]`);
  }

  #turn(state, reason = "") {
    const element = this.#field("state");
    const was = element.dataset.state;
    if (state !== was) {
      if (was === "live") this.#away = performance.now();
      if (state === "live") this.#field("returns").textContent = this.#returns += 1;
    }
    element.dataset.state = state;
    element.textContent = state;
    element.title = reason;
  }

  #hear(name, data, id) {
    if (id) {
      this.#field("position").textContent = `…${id.slice(-10)}`;
      this.#field("position").title = id;
    }
    if (name === "showcase.number") this.#count(data);
    else this.#write(name, noteOf(name, data));
    if (name === "sse.open") this.#returned(data);
    if (name === "sse.reset" && this.make.plain) void this.#startOver(data);
    if (name.startsWith("sse.")) return;
    this.#field("count").textContent = this.#events += 1;
    if (!calm.matches) flash(this.element);
  }

  #returned({ recovered, missed }) {
    if (!this.#away || !recovered) return;
    const seconds = ((performance.now() - this.#away) / 1000).toFixed(1);
    this.#away = 0;
    this.judge(`Back after ${seconds} s. Missed meanwhile and sent again: ${missed}.`, "good");
  }

  #count(number) {
    const { run, n } = number;
    const tally = this.#runs.get(run) ?? new Tally(number);
    this.#runs.set(run, tally);
    if (this.#runs.size > RUNS_KEPT) this.#runs.delete(this.#runs.keys().next().value);
    tally.take(n);
    this.#write("showcase.number", `${tally.received} of ${tally.of}`, run);
    const pulled = run === this.#pulled;
    const word = pulled ? "Recovered" : tally.why === "restart" ? "Over the restart" : "Live";
    const text = `${tally.ended ? word : "Catching up"}: ${tally}.`;
    this.judge(text, !tally.ended ? "warn" : tally.clean ? "good" : "bad");
    if (pulled && tally.ended) this.tell(text);
  }

  async #startOver({ group, reason }) {
    this.judge(`sse.reset of ${group} (${reason}): reading the orders again.`, "warn");
    const { orders } = await read(this.element.dataset.orders);
    const text = `sse.reset of ${group} (${reason}): read ${orders.length} orders again, and continues.`;
    this.judge(text, "warn");
    this.tell(text);
  }

  #write(name, note, run = "") {
    const log = this.#field("log");
    const first = log.firstElementChild;
    // A run is one line, however many its numbers.
    const line = run && first?.dataset.run === run ? first : document.createElement("li");
    line.dataset.event = name;
    line.dataset.run = run;
    const [b, span] = ["b", "span"].map((tag) => document.createElement(tag));
    b.textContent = name;
    span.textContent = note;
    line.replaceChildren(b, span);
    if (line !== first) log.prepend(line);
    while (log.children.length > LOG_LINES) log.lastElementChild.remove();
  }
}

function noteOf(name, data) {
  if (name === "sse.open") return data.recovered ? `${data.missed} replayed` : "from now on";
  if (name === "sse.reset") return `${data.group}: ${data.reason}`;
  if (name.startsWith("sse.") || data.pk === undefined) return data.reason ?? data.text ?? "";
  const row = data.fields ?? data;
  return `#${data.pk} ${[row.status, row.item, row.customer].filter(Boolean).join(", ")}`;
}

function flash(element) {
  const lit = { boxShadow: "0 0 0 2px var(--accent)" };
  for (const running of element.getAnimations()) running.cancel();
  element.animate([lit, { ...lit, offset: 0.3 }, {}], { duration: 900, easing: "ease-out" });
}
