/**
 * The page's end of a stream: `connect(url)` and `<sse-stream url="…">`.
 *
 * Decisions, and why:
 *
 * - `fetch()` and not `EventSource`: it shows status codes (a 503 is not the end), headers and the
 *   heartbeat (a comment), it can be given up when it falls silent, and its back-off is ours.
 * - One connection for all tabs by Web Locks and a BroadcastChannel, as SharedWorker is missing on
 *   Android. Who holds the lock has the connection and tells the others; the lock of a tab that is
 *   closed, crashes or goes to the back/forward cache is free at once. Without either, as on plain
 *   HTTP, each tab has a connection of its own. Followers also take the lock from a tab that hangs.
 * - Every stream keeps its own place per group, so whoever leads, and from wherever the connection
 *   begins, it shows each event once, and can tell whether the connection begins too late for it.
 *   For that this script reads ids, which are opaque for everybody else: `1.<hash>-<epoch>-<offset>`
 *   per group. With ids of another version it shares nothing and gives them back as they came.
 * - `label=1` asks the server for a line `group: …` in each event, as an event without an id would
 *   not say whose it is, and for its limits in `sse.open`.
 * - When the union of what the tabs want changes, the next connection opens before the last one is
 *   given up; if it is refused, those who came with it are on their own and the rest lose nothing.
 */

/** @typedef {Map<string, string>} Places  By a group's hash: `<epoch>-<offset>`. */
/** @typedef {{data?: string, event?: string, group?: string, id?: string, retry?: string, tab?: string}} Block */
/** @typedef {"connecting" | "open" | "reconnecting" | "offline" | "closed"} State */
/** @typedef {{id: string, groups: string[], grants: string[], places: Places}} Want */
/** @typedef {Want & {tab: string}} Member */
/** @typedef {(data: any, detail: any) => unknown} Listener */
/** @typedef {{event: string, id: string, group?: string}} EventDetail */
/** @typedef {{reset?: Listener, fragment?: string, csrf?: () => string, share?: boolean}} Options */
/** @typedef {{group?: string, key?: string}} SendOptions */
/**
 * What a leader tells; `ids` are the streams that it concerns, none: all.
 * @typedef {Record<string, any>} Told
 */

/** With the version of what they tell each other. */
const BETWEEN_TABS = "sse_app 1 ";
const RESET = "sse.reset";
/** @type {Told} */
const ALONE = { t: "alone" };
/** @param {string} reason @returns {Told} */
const closed = (reason) => ({ t: "state", state: "closed", reason });
const LONGEST_TIMER = 3_600_000;
/** For an answer, and between two attempts. */
const LONGEST_WAIT = 60_000;
const ASKED = 2;
const YOUNG = 10_000;
const JOINING = 500;
const SHRINKING = 2_000;
const FIELDS = new Set(["data", "event", "group", "tab"]);

const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
/** Full jitter: anything up to a bound that doubles. @param {number} base @param {number} failures */
const jitter = (base, failures) => Math.random() * Math.min(LONGEST_WAIT, base * 2 ** failures);
/** @param {number} ms */
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
/** @param {any} text */
const parse = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};

/**
 * Splits a stream's text into blocks (HTML Standard, 9.2.6). Returns what takes the text in chunks,
 * decoded and without the byte order mark.
 * @param {(block: Block) => void} take
 */
export function parser(take) {
  let rest = "";
  let afterCr = false;
  /** @type {any} */
  let block = {};

  /** @param {string} line */
  function read(line) {
    if (!line) {
      const whole = block;
      block = {};
      if (Object.keys(whole).length) take(whole);
      return;
    }
    const [, field, value] = /** @type {string[]} */ (/^([^:]*):? ?([^]*)$/.exec(line));
    if (field === "data" && "data" in block) block.data += `\n${value}`;
    else if (
      field === "retry" ? /^\d+$/.test(value) : field === "id" ? !value.includes("\0") : FIELDS.has(field)
    ) {
      block[field] = value;
    }
  }

  return (/** @type {string} */ text) => {
    if (!text) return;
    if (afterCr && text[0] === "\n") text = text.slice(1);
    afterCr = text.endsWith("\r");
    const lines = (rest + text).split(/\r\n|\n|\r/);
    rest = /** @type {string} */ (lines.pop());
    lines.forEach(read);
  };
}

// --- places ---

/** The places in an id, in its order; null for one that this script can't read. @param {string} id */
function placesOf(id) {
  const [version, ...parts] = id.split(".");
  /** @type {Places} */
  const places = new Map();
  for (const part of parts) {
    const found = /^([a-z2-7]{8})-([a-z0-9]+-\d+)$/.exec(part);
    if (!found) return null;
    places.set(found[1], found[2]);
  }
  return version === "1" && places.size ? places : null;
}

/** @param {Places} places */
const idOf = (places) =>
  places.size ? ["1", ...[...places].map((part) => part.join("-"))].join(".") : "";

/** @param {string} place @returns {[string, number]} */
const split = (place) => {
  const [epoch, offset] = place.split("-");
  return [epoch, Number(offset)];
};

/**
 * Whether who stands at `place` misses nothing on a connection that begins at `start`. Epoch "0" is
 * before the first event; the server resets whoever it can't take there.
 * @param {string} start @param {string} place
 */
function covers(start, place) {
  const [[epoch, offset], [own, reached]] = [start, place].map(split);
  return epoch === "0" || (epoch === own && offset <= reached);
}

/**
 * Make `places` begin early enough for who stands at `others`, too. Of two logs it keeps its own:
 * whoever comes from the other one finds that out when the connection has opened.
 * @param {Places} places @param {Places} others
 */
function include(places, others) {
  for (const [hash, place] of others) {
    const known = places.get(hash);
    const [[epoch, offset], [own, reached]] = [place, known ?? ""].map(split);
    if (!known || (epoch === own ? offset < reached : epoch === "0")) places.set(hash, place);
  }
}

// --- grants ---

/** What a signed page's grant names, and when it was given; null if that can't be read. */
/** @param {string} grant */
function readGrant(grant) {
  try {
    const [groups, , , , issued] = JSON.parse(
      atob(grant.split(":")[0].replace(/-/g, "+").replace(/_/g, "/")),
    );
    return { groups: /** @type {string[]} */ (groups.map(String)), issued };
  } catch {
    return null;
  }
}

/** The fewest grants that give what all of them do, newest first. @param {Iterable<string>} grants */
function fewest(grants) {
  const all = [...new Set(grants)].map((text) => ({ text, groups: [text], issued: 0, ...readGrant(text) }));
  const covered = new Set();
  return all
    .sort((a, b) => b.issued - a.issued)
    .filter(({ groups }) => groups.filter((group) => !covered.has(group) && covered.add(group)).length);
}

// --- requests up ---

function csrfToken() {
  /** @type {any} */
  const element = document.querySelector("[name=csrfmiddlewaretoken], meta[name=csrf-token]");
  // The cookie first: a login in another tab has changed it.
  return /(?:^|[ -])csrftoken=([^;]+)/.exec(document.cookie)?.[1] ?? element?.value ?? element?.content ?? "";
}

/** An answer that is no success: `status`, and the server's `answer` as it came or as JSON. */
export class RequestError extends Error {
  /** @param {number} status @param {any} answer */
  constructor(status, answer) {
    super([answer?.error ?? `HTTP ${status}`].flat().join(" "));
    this.status = status;
    this.answer = answer;
  }
}

/** What holds a lock until `signal`. @param {AbortSignal} signal */
const until = (signal) => new Promise((free) => signal.addEventListener("abort", free));
/** @param {string} name @param {LockOptions} options @param {() => unknown} fn */
const lock = async (name, options, fn) => navigator.locks.request(name, options, fn);

/** Whether an answer, or that there was none, is passing. @param {number} status */
const passes = (status) => !status || status === 429 || status >= 500;
/** @param {Response} response  In milliseconds; undefined if it does not say. */
const retryAfter = (response) => 1000 * Number(response.headers.get("Retry-After")) || undefined;

/**
 * What the server says to a POST; status 0: nothing.
 * @param {URL} url @param {unknown} data @param {Options} options @param {string} [key]
 * @returns {Promise<{status: number, answer?: any, error?: unknown, wait?: number}>}
 */
async function post(url, data, options, key) {
  const body = JSON.stringify(data);
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json", "X-CSRFToken": options.csrf?.() ?? csrfToken() };
  if (key) headers["Idempotency-Key"] = key;
  try {
    const signal = AbortSignal.timeout(LONGEST_WAIT);
    const response = await fetch(url, { method: "POST", headers, body, signal });
    const answer = parse(await response.text());
    return { status: response.status, answer, wait: retryAfter(response) };
  } catch (error) {
    return { status: 0, error };
  }
}

// --- one connection ---

/** All connections of this page: what wakes the page wakes them. @type {Set<Line>} */
const lines = new Set();

/** A connection that is made again whenever it ends, until it is closed or over. */
class Line {
  opened = false;
  /** It goes on until its successor has opened, and is not made again. */
  retired = false;
  /** Whom it serves. @type {string[]} */
  ids = [];
  #closed = false;
  #failures = 0;
  /** When its wait is over, or its silence too long, also for a clock that went on in sleep. */
  #due = 0;
  #base = 1000;
  /** @type {number | undefined} */
  #wait;
  #reason = "";
  #over = "";
  /** Ends the wait for the next attempt. @type {((_: unknown) => void) | null} */
  #go = null;
  #abort = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #pool;

  /** @param {Pool} pool */
  constructor(pool) {
    this.#pool = pool;
    lines.add(this);
  }

  close() {
    this.#closed = true;
    lines.delete(this);
    this.#abort.abort();
    this.#go?.(0);
  }

  /** Look at once whether it lives; `now`: it is certain that it has to be made again. */
  poke(now = false) {
    if (now) this.#failures = 0;
    else if (Date.now() < this.#due) return;
    if (this.#go) return this.#go(0);
    this.#wait = 0;
    this.#reason = now ? "network" : "silent";
    this.#abort.abort();
  }

  async run() {
    this.#turn("connecting", "");
    while (!this.#closed) {
      this.#wait = undefined;
      this.#reason = this.#over = "";
      try {
        await this.#once();
      } catch {
        this.#reason ||= this.#abort.signal.aborted ? "silent" : "network";
      }
      clearTimeout(this.#timer);
      this.#abort.abort();
      this.opened = false;
      if (this.#closed) return;
      if (this.retired) return this.close();
      const expired = this.#over === "expired";
      if (!this.#over || expired) this.#turn(navigator.onLine ? "reconnecting" : "offline", this.#reason);
      if (expired && (await this.#pool.renew())) this.#over = "";
      if (this.#closed) return;
      if (this.#over) {
        this.close();
        return this.#pool.over(this.#over, this.#reason, this);
      }
      const wait = this.#wait ?? jitter(this.#base, this.#failures++);
      await new Promise((done) => {
        this.#go = done;
        this.#then(done, wait);
      });
      this.#go = null;
    }
  }

  async #once() {
    this.#abort = new AbortController();
    this.#alive();
    const { url, cursor, ids, labelled } = this.#pool.target();
    this.ids = ids;
    const response = await fetch(url, {
      headers: { Accept: "text/event-stream", ...(cursor && { "Last-Event-ID": cursor }) },
      cache: "no-store",
      credentials: "include",
      signal: this.#abort.signal,
    });
    const { status, body } = response;
    const type = response.headers.get("Content-Type") ?? "";
    if (status !== 200 || !body || !/^text\/event-stream\b/i.test(type)) {
      this.#reason = `HTTP ${status}`;
      this.#wait = retryAfter(response);
      if (status !== 200 && !passes(status)) this.#reason = `${(this.#over = "refused")}: ${this.#reason}`;
      return;
    }
    if (!labelled) this.#open();
    const feed = parser((block) => this.#hear(block));
    const decoder = new TextDecoder();
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#closed) return;
      this.#alive();
      feed(decoder.decode(value, { stream: true }));
    }
  }

  /** Something came: if nothing does for long, this connection is dead. */
  #alive() {
    this.#then(() => this.#abort.abort(), this.#pool.silence);
  }

  /** @param {(_: any) => void} fn @param {number} ms */
  #then(fn, ms) {
    ms = Math.min(ms, LONGEST_TIMER); // A timer of many days would fire at once.
    this.#due = Date.now() + ms;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(fn, ms);
  }

  #open() {
    this.opened = true;
    this.#failures = 0;
    this.#turn("open", "");
  }

  /** @param {Block} block */
  #hear(block) {
    if (this.#closed) return;
    const { event: name, data, retry } = block;
    const busy = name === "sse.busy";
    const over = busy || name === "sse.close" ? String(parse(data)?.reason) : "";
    if (over) this.#reason = busy ? `busy: ${over}` : over;
    if (/^(auth|expired|end)$/.test(over)) this.#over = over;
    else if (retry && over) this.#wait = +retry;
    else if (retry) this.#base = +retry;
    this.#pool.hear(block, this);
    if (name === "sse.open") this.#open();
  }

  /** @param {State} state @param {string} reason */
  #turn(state, reason) {
    this.#pool.turn(state, reason, this);
  }
}

// --- who shares a connection ---

/** The shared ones of this page, by the path of their streams. @type {Map<string, Pool>} */
const shared = new Map();
/** All that have streams, also those of a single one. @type {Set<Pool>} */
const pools = new Set();

/** The streams of this page that share a connection, and the connection, if this tab leads. */
class Pool {
  /** What the server said when the connection opened. @type {any} */
  about = {};
  /** This page's. @type {Map<string, Stream>} */
  streams = new Map();
  #tab = random();
  #name;
  #leader = "";
  /** How often this tab has asked its leader for a sign of life since the last one. */
  #asked = 0;
  /** @type {BroadcastChannel | null} */
  #channel = null;
  /** Ends what this page holds: its locks and waits. @type {AbortController | null} */
  #held = null;
  /** Ends the wait for the lock. */
  #turn = new AbortController();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #watch;

  // Of the leader:
  #leads = new AbortController();
  /** @type {Map<string, Member>} */
  #members = new Map();
  /** Tabs that have not said yet what they want. @type {Set<string>} */
  #expected = new Set();
  /** @type {Set<string>} */
  #tabs = new Set();
  /** @type {Line | null} */
  #line = null;
  /** @type {Line | null} */
  #next = null;
  /** Where the connection stands. @type {Places} */
  #at = new Map();
  /** Where those stand that it does not serve yet. @type {Places} */
  #wanted = new Map();
  /** @type {Map<string, string>} */
  #names = new Map();

  /** @param {string} path  That of the stream's URL; empty for a stream of its own. */
  constructor(path) {
    this.#name = path && BETWEEN_TABS + path;
    this.#leads.abort();
  }

  /** After so many milliseconds without a byte a connection is dead. */
  get silence() {
    return 2.5 * this.heartbeat;
  }

  /** In milliseconds. */
  get heartbeat() {
    return 1000 * (this.about.heartbeat ?? 15);
  }

  /** @param {Stream} stream */
  add(stream) {
    pools.add(this);
    this.streams.set(stream.id, stream);
    stream.pool = this;
    if (this.#held) this.#join([stream]);
    else this.start();
  }

  /** @param {Stream} stream */
  remove({ id }) {
    if (!this.streams.delete(id)) return;
    if (!this.streams.size) {
      pools.delete(this);
      return this.stop();
    }
    if (this.#leading) this.#leave([id]);
    else this.#post({ t: "leave", ids: [id] });
  }

  start() {
    if (this.#held || !this.streams.size) return;
    const held = (this.#held = new AbortController());
    if (!this.#name) return this.#lead();
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    // Whoever leads waits for this lock, and so learns of the end of this tab, however it ends.
    lock(`${this.#name} ${this.#tab}`, held, () => {
      this.#join();
      this.#compete();
      return until(held.signal);
    }).catch(() => {
      if (held.signal.aborted) return;
      // No locks for this page, as on plain HTTP, in a sandboxed frame or without storage.
      this.#channel?.close();
      this.#channel = null;
      this.#lead();
    });
    this.#look();
  }

  /** Give back what would keep the page out of the back/forward cache, or others waiting. */
  stop() {
    if (!this.#held) return;
    this.#held.abort();
    this.#held = null;
    this.#turn.abort();
    this.#resign();
    this.#channel?.close();
    this.#channel = null;
    clearTimeout(this.#watch);
    this.#leader = "";
    this.#asked = 0;
  }

  get #own() {
    return [...this.streams.values()];
  }

  get #all() {
    return [...this.#members.values()];
  }

  get #ids() {
    return [...this.#members.keys()];
  }

  get #leading() {
    return !this.#leads.signal.aborted;
  }

  // --- between tabs ---

  /** @param {object} message */
  #post(message) {
    this.#channel?.postMessage({ ...message, from: this.#tab });
  }

  /** Tell everybody, this page too. @param {Told} told */
  #tell(told) {
    this.#post(told);
    this.#deliver(told);
  }

  /** @param {Told} told */
  #deliver(told) {
    this.about = told.about ?? this.about;
    for (const stream of this.#own) stream.take(told);
  }

  /** @param {any} message  From a tab of this origin; one with another script may send anything. */
  #hear(message) {
    try {
      const { t, from } = message;
      if (t === "join" || t === "leave" || t === "ask") {
        if (!this.#leading) return;
        if (t === "join") this.#admit(from, message.streams);
        else if (t === "leave") this.#leave(message.ids);
        else {
          this.#line?.poke();
          this.#tell({ t: "alive" });
        }
        return;
      }
      if (this.#leading) return; // Somebody takes over: the lock will say so.
      if (t === "lead") this.#leader = from;
      else if (from !== (this.#leader ||= from)) return;
      this.#asked = 0;
      if (t === "lead") this.#join();
      else this.#deliver(message);
      if (this.#held) this.#look();
    } catch {
      // It is no message of ours.
    }
  }

  #join(streams = this.#own) {
    const wants = streams.map(({ want }) => want);
    if (this.#leading) this.#admit(this.#tab, wants);
    else this.#post({ t: "join", streams: wants });
  }

  /** A follower asks whether its leader is still there, and makes it look whether its line is. */
  #look() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      this.#look();
      if (this.#leading) return;
      if (this.#asked++ < ASKED) this.#post({ t: "ask" });
      else this.#compete(true);
    }, this.heartbeat);
  }

  /** Wait for the lock; `steal` it from a tab that hangs. */
  #compete(steal = false) {
    this.#turn.abort();
    const { signal } = (this.#turn = new AbortController());
    this.#asked = 0;
    lock(this.#name, steal ? { steal } : { signal }, () => {
      if (signal.aborted) return;
      void this.#lead();
      return until(signal);
    }).catch(() => {
      if (signal.aborted) return;
      // Somebody took it, as this tab hung.
      this.#resign();
      this.#leader = "";
      this.#compete();
      this.#join();
    });
  }

  // --- of the leader ---

  async #lead() {
    this.#leads = new AbortController();
    this.#leader = this.#tab;
    this.#expected = new Set([this.#tab]);
    if (this.#channel) {
      // Who is there says so; then one connection is made for all.
      const { held = [] } = await navigator.locks.query();
      const prefix = `${this.#name} `;
      for (const { name = "" } of held) {
        if (name.startsWith(prefix)) this.#expected.add(name.slice(prefix.length));
      }
      if (!this.#leading) return;
      this.#post({ t: "lead" });
      setTimeout(() => {
        this.#expected.clear();
        if (!this.#line) this.#open();
      }, JOINING);
    }
    this.#join();
  }

  #resign() {
    this.#leads.abort();
    this.#line?.close();
    this.#next?.close();
    this.#line = this.#next = null;
    for (const kept of [this.#members, this.#tabs, this.#at, this.#wanted, this.#names]) kept.clear();
  }

  get #groups() {
    return new Set(this.#all.flatMap(({ groups }) => groups));
  }

  /** @param {string} tab @param {Want[]} wants */
  #admit(tab, wants) {
    this.#expected.delete(tab);
    if (tab !== this.#tab && !this.#tabs.has(tab)) {
      this.#tabs.add(tab);
      lock(`${this.#name} ${tab}`, this.#leads, () => {
        this.#tabs.delete(tab);
        this.#leave(this.#all.filter((member) => member.tab === tab).map(({ id }) => id));
      }).catch(() => {});
    }
    let more = false;
    for (const want of wants) {
      if (new Set([...this.#groups, ...want.groups]).size > this.about.max_groups) {
        this.#dismiss(ALONE, [want.id]);
        continue;
      }
      this.#members.set(want.id, { ...want, tab });
      if (!this.#serves(want)) {
        more = true;
        include(this.#wanted, want.places);
      } else this.#line?.ids.push(want.id);
    }
    if (more || !this.#line) this.#open();
    else this.#welcome();
  }

  /** Whether the connection gives a stream all it wants. @param {Want} want */
  #serves({ groups, places }) {
    return (
      this.#line?.opened &&
      !this.#next &&
      groups.every((group) => this.#names.has(group)) &&
      [...places].every(([hash, place]) => covers(this.#at.get(hash) ?? "0", place))
    );
  }

  /** @param {string[]} ids */
  #leave(ids) {
    for (const id of ids) this.#members.delete(id);
    setTimeout(() => {
      // Later, as a page that is left for another often wants the same again.
      if (this.#line?.opened && this.#groups.size < this.#names.size) this.#open();
    }, SHRINKING);
  }

  /** Make a connection for all that is wanted now. */
  #open() {
    if (this.#expected.size || !this.#members.size) return;
    this.#next?.close();
    this.#next = null;
    if (!this.#line?.opened) this.#line?.close();
    else this.#line.retired = true;
    const line = new Line(this);
    if (this.#line?.opened) this.#next = line;
    else this.#line = line;
    void line.run();
  }

  /** Tell the members that they are served, and from where. */
  #welcome() {
    this.#tell({ t: "open", ids: this.#line?.ids, about: this.about, at: this.#at, names: this.#names });
  }

  // --- for the connection ---

  target() {
    const [stream] = this.#own;
    const url = new URL(stream.url);
    const query = url.searchParams;
    const grants = this.#grants;
    const signed = grants.flatMap(({ groups }) => groups);
    const groups = [...this.#groups];
    query.delete("group");
    query.delete("grant");
    // In one order, so that the server can write to streams of the same groups as to one.
    for (const group of groups.sort()) if (!signed.includes(group)) query.append("group", group);
    for (const { text } of grants) query.append("grant", text);
    if (groups.length) query.append("label", "1");
    const from = new Map(this.#at);
    include(from, this.#wanted);
    return { url, cursor: this.#name ? idOf(from) : stream.cursor, ids: this.#ids, labelled: groups.length };
  }

  get #grants() {
    return fewest(this.#all.flatMap(({ grants }) => grants));
  }

  /** @param {State} state @param {string} reason @param {Line} line */
  turn(state, reason, line) {
    if (line === this.#next && this.#line?.opened) return;
    this.#tell({ t: "state", state, reason });
  }

  /** @param {Block} block @param {Line} line */
  hear({ event, data, group, id, tab }, line) {
    const name = event || "message";
    const opens = name === "sse.open";
    if (line !== this.#line && !opens) return;
    const places = this.#name && id ? placesOf(id) : null;
    if (opens) this.#opened(parse(data) ?? {}, places, line);
    else if (places) this.#at = places;
    if (name === RESET) group = parse(data)?.group;
    const hash = this.#names.get(group ?? "");
    id = this.#name ? places?.get(hash ?? "") : id;
    this.#tell({ t: "event", name, data, group, hash, id, ids: tab && [tab] });
  }

  /** @param {any} data @param {Places | null} places @param {Line} line */
  #opened(data, places, line) {
    if (line === this.#next) {
      this.#line?.close();
      this.#line = line;
      this.#next = null;
    }
    this.about = data;
    if (!this.#name) return;
    // Ids that can't be read, or a server that knows of no labels: nothing says whose an event is.
    if (!places || !data.max_groups) return this.#dismiss(ALONE);
    this.#at = places;
    this.#wanted.clear();
    const hashes = [...places.keys()];
    this.#names = new Map(hashes.map((hash, n) => [data.groups[n], hash]));
    this.#welcome();
  }

  /** @param {Told} told @param {string[]} ids */
  #dismiss(told, ids = this.#ids) {
    for (const id of ids) this.#members.delete(id);
    this.#tell({ ...told, ids });
  }

  /** @param {string} what @param {string} reason @param {Line} line */
  over(what, reason, line) {
    const former = this.#line;
    if (line === this.#next) {
      // It was the last ones' to be refused.
      this.#next = null;
      this.#wanted.clear();
      this.#dismiss(ALONE, this.#ids.filter((id) => !former?.ids.includes(id)));
      if (former?.opened) former.retired = false;
      else this.#open();
    } else if (line === former) {
      this.#line = null;
      const several = this.#members.size > 1;
      this.#dismiss(what === "refused" && several ? ALONE : closed(reason));
    }
  }

  /**
   * Have the oldest grant renewed, as it ends first. Without it, those who came with it are closed.
   * Returns whether there is somebody to go on for.
   */
  async renew() {
    const old = this.#grants.pop()?.text;
    const [stream] = this.#own;
    if (!old) return false;
    const { status, answer } = await post(stream.sibling("renew/"), { grant: old }, stream.options);
    const holders = this.#all.filter(({ grants }) => grants.includes(old));
    if (status === 200) {
      const { grant } = answer;
      for (const member of holders) member.grants.splice(member.grants.indexOf(old), 1, grant);
      this.#tell({ t: "grant", old, grant });
    } else if (!passes(status)) {
      this.#dismiss(closed("expired"), holders.map(({ id }) => id));
    }
    return this.#members.size > 0;
  }
}

// Also when it goes: what can be reached without a network, such as this machine, opens again.
for (const name of ["online", "offline"]) addEventListener(name, () => lines.forEach((line) => line.poke(true)));
addEventListener("visibilitychange", () => lines.forEach((line) => line.poke()));
for (const name of ["pagehide", "freeze"]) addEventListener(name, () => pools.forEach((pool) => pool.stop()), true);
for (const name of ["pageshow", "resume"]) addEventListener(name, () => pools.forEach((pool) => pool.start()), true);

// --- what the page has ---

/** A stream as the page sees it; made by `connect()`. */
class Stream {
  id = random();
  /** @type {State} */
  state = "connecting";
  /** Why it is in this state, empty if there is nothing to say. */
  reason = "";
  /** @type {Pool | null} */
  pool = null;
  /** @type {Options} */
  options;
  url;
  /** @type {string[]} */
  #groups;
  /** @type {string[]} */
  #grants;
  /** @type {Places} */
  #places;
  /** The last id, where ids are not read. */
  #lastId = "";
  #served = false;
  /** By which it shares a connection; empty if it does not. */
  #path;
  /** @type {Map<string, Set<Listener>>} */
  #listeners = new Map();
  /** What came while the page starts over. @type {[string, any, EventDetail][] | null} */
  #queue = null;
  /** The groups that are to be loaded again. @type {Map<string, [any, EventDetail]>} */
  #lost = new Map();

  /** @param {string | URL} url @param {Options} options */
  constructor(url, options) {
    this.options = options;
    this.url = new URL(url, document.baseURI);
    const query = this.url.searchParams;
    for (const name of ["last_event_id", "lastEventId"]) {
      this.#lastId ||= query.get(name) ?? "";
      query.delete(name);
    }
    this.#grants = query.getAll("grant");
    const signed = this.#grants.map(readGrant);
    this.#groups = [...new Set([...query.getAll("group"), ...signed.flatMap((grant) => grant?.groups ?? [])])];
    const places = placesOf(this.#lastId);
    this.#places = places ?? new Map();
    const known = [...query.keys()].every((key) => /^gr(oup|ant)$/.test(key));
    const readable = signed.every(Boolean) && (places || !this.#lastId);
    const shares = options.share !== false && known && readable && this.#groups.length > 0;
    const { origin, pathname } = this.url;
    this.#path = shares && origin === location.origin ? pathname : "";
    if (this.#path) this.#lastId = "";
    if (options.reset) this.on(RESET, options.reset);
  }

  /** Begin, unless it was closed meanwhile. */
  open() {
    const path = this.#path;
    if (this.state === "closed") return this;
    if (!path) this.#alone();
    else {
      const pool = shared.get(path) ?? new Pool(path);
      shared.set(path, pool);
      pool.add(this);
    }
    return this;
  }

  #alone() {
    this.#lastId = idOf(this.#places) || this.#lastId;
    this.#served = true;
    new Pool("").add(this);
  }

  /** The id to go on from. */
  get cursor() {
    return this.#lastId || idOf(this.#places);
  }

  /** What it wants of a connection that is shared. @returns {Want} */
  get want() {
    return { id: this.id, groups: this.#groups, grants: this.#grants, places: this.#places };
  }

  /** The address beside the stream's. @param {string} name */
  sibling(name) {
    return new URL(name, this.url.origin + this.url.pathname.replace(/\/?$/, "/"));
  }

  /**
   * Call `fn(data, detail)` for each event of that name; "*" is every event, "state" the state.
   * @param {string} event @param {Listener} fn
   */
  on(event, fn) {
    this.#listeners.set(event, (this.#listeners.get(event) ?? new Set()).add(fn));
    return this;
  }

  /** @param {string} event @param {Listener} fn */
  off(event, fn) {
    this.#listeners.get(event)?.delete(fn);
    return this;
  }

  /** End it for good. */
  close() {
    this.#turn("closed", "");
  }

  /**
   * Send an event up and return the handler's answer. It is sent again, and handled once, while the
   * network or the server is away; after a minute it fails. Anything else is a `RequestError`.
   * @param {string} event @param {unknown} [data] @param {SendOptions} [options]
   */
  async send(event, data = null, { group = this.#groups[0], key = random() } = {}) {
    if (!group) throw new TypeError("send() needs a group");
    const end = Date.now() + LONGEST_WAIT;
    for (let failures = 0; ; failures++) {
      const message = { group, event, data, connection: this.pool?.about.connection, tab: this.id };
      const sent = await post(this.sibling("send/"), message, this.options, key);
      const { status, answer, error, wait = jitter(500, failures) } = sent;
      if (status === 200) return answer;
      // A handler that failed would fail again.
      if (!passes(status) || status === 500 || Date.now() + wait > end) {
        throw error ?? new RequestError(status, answer);
      }
      await pause(wait);
    }
  }

  /** What the connection says. @param {Told} told */
  take(told) {
    const { t, ids, state, reason, old, grant } = told;
    const mine = !ids || ids.includes(this.id);
    if (t === "open") {
      this.#served = mine;
      if (mine) this.#settle(told);
    } else if (t === "state" && mine) {
      if (this.#served || state !== "open") this.#turn(state, reason);
    } else if (t === "grant") {
      this.#grants = this.#grants.map((each) => (each === old ? grant : each));
    } else if (t === "alone" && mine) {
      this.pool?.remove(this);
      this.#alone();
    } else if (t === "event" && mine && this.#served) this.#hear(told);
  }

  /** A connection begins: see whether it does so in time for this stream. @param {Told} told */
  #settle({ names, at }) {
    for (const group of this.#groups) {
      const hash = names.get(group);
      const start = at.get(hash);
      const own = this.#places.get(hash);
      if (start && !(own && covers(start, own))) {
        this.#places.set(hash, start);
        if (own) this.#emit(RESET, { group, reason: "unknown" }, { event: RESET, id: "", group });
      }
    }
    this.#turn("open", "");
  }

  /** @param {Told} told */
  #hear({ name, data, group, hash, id }) {
    if (group && this.#groups.length && !this.#groups.includes(group)) return;
    if (hash && id) {
      const own = this.#places.get(hash);
      // A reset to where it stands is for somebody else who shares the connection.
      if (own && (name === RESET ? id === own : covers(id, own))) return;
      this.#places.set(hash, id);
      id = `1.${hash}-${id}`;
    } else if (id) this.#lastId = id;
    if (data !== undefined) this.#emit(name, parse(data), { event: name, id: id ?? "", group });
  }

  /** @param {string} name @param {any} data @param {EventDetail} detail */
  #emit(name, data, detail) {
    if (name === RESET) void this.#startOver(data, detail);
    if (this.#queue && !name.startsWith("sse.")) this.#queue.push([name, data, detail]);
    else this.#call(name, data, detail);
  }

  /** @param {string} name @param {any} data @param {any} detail */
  #call(name, data, detail) {
    // A server's event named "state" is no state, and who starts over is called there.
    const names = !detail.event ? [name] : name === "state" || name === RESET ? ["*"] : [name, "*"];
    for (const fn of names.flatMap((each) => [...(this.#listeners.get(each) ?? [])])) {
      try {
        fn(data, detail);
      } catch (error) {
        reportError(error); // One listener's failure is its own.
      }
    }
  }

  /** What was is lost: load it again; what comes meanwhile waits. @param {any} data @param {EventDetail} detail */
  async #startOver(data, detail) {
    const lost = this.#lost;
    lost.set(data.group, [data, detail]);
    if (this.#queue) return;
    this.#queue = [];
    for (let failures = 0; lost.size && this.state !== "closed"; ) {
      const [[group, reset]] = lost;
      lost.delete(group);
      try {
        await this.#reload(...reset);
      } catch (error) {
        console.warn(error);
        if (!lost.has(group)) lost.set(group, reset);
        await pause(jitter(1000, failures++));
      }
    }
    const queue = this.#queue;
    this.#queue = null;
    for (const waiting of queue) this.#call(...waiting);
  }

  /** @param {any} data @param {EventDetail} detail */
  async #reload(data, detail) {
    const { fragment } = this.options;
    const own = [...(this.#listeners.get(RESET) ?? [])];
    if (own.length) await Promise.all(own.map((fn) => fn(data, detail)));
    else await (fragment ? reloadFragment(fragment) : reloadPage());
  }

  /** @param {State} state @param {string} reason */
  #turn(state, reason) {
    if (this.state === "closed" || (this.state === state && this.reason === reason)) return;
    // Once it was open, it is never connecting for the first time again.
    if (state === "connecting" && this.state !== "connecting") state = "reconnecting";
    this.state = state;
    this.reason = reason;
    if (state === "closed") {
      this.pool?.remove(this);
      this.pool = null;
    }
    this.#call("state", state, { reason });
  }
}

/** Replace what `selector` finds in the page by what the server renders now. @param {string} selector */
async function reloadFragment(selector) {
  const response = await fetch(location.href, { cache: "no-store" });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = response.ok && page.querySelector(selector);
  if (!fresh) throw new Error(`no ${selector}`);
  document.querySelector(selector)?.replaceWith(fresh);
}

/** Reload the page, at a moment of its own; seldom, as what the server gives may be too old for ever. */
async function reloadPage() {
  await pause(jitter(1000, 0) + Math.max(0, YOUNG - performance.now()));
  location.reload();
}

/** Open a stream. @param {string | URL} url @param {Options} [options] */
export const connect = (url, options = {}) => new Stream(url, options).open();

/** When the page's other modules have run, and listen. */
const loaded = new Promise((done) => {
  if (document.readyState === "complete") done(0);
  else for (const name of ["DOMContentLoaded", "load"]) addEventListener(name, done);
});

/** `<sse-stream url="…" fragment="#board">`: connected while it is in the page. */
export class StreamElement extends HTMLElement {
  static connect = connect;
  static observedAttributes = ["url"];
  /** @type {Stream | null} */
  stream = null;

  connectedCallback() {
    if (!this.stream) this.#open();
  }

  disconnectedCallback() {
    // An element that is only moved keeps its connection.
    queueMicrotask(() => {
      if (!this.isConnected) this.#close();
    });
  }

  attributeChangedCallback() {
    if (!this.isConnected) return;
    this.#close();
    this.#open();
  }

  #close() {
    this.stream?.close();
    this.stream = null;
  }

  #open() {
    const url = this.getAttribute("url");
    if (url === null) return;
    const stream = (this.stream = new Stream(url, { fragment: this.getAttribute("fragment") ?? "" }));
    void loaded.then(() => stream.open());
    const show = () => {
      this.setAttribute("state", stream.state);
      this.setAttribute("reason", stream.reason);
    };
    show();
    stream.on("state", show);
  }
}

if (!customElements.get("sse-stream")) customElements.define("sse-stream", StreamElement);
