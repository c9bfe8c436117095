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
/** @typedef {{data?: string, event?: string, group?: string, id?: string, retry?: number}} Block */
/** @typedef {"connecting" | "open" | "reconnecting" | "offline" | "closed"} State */
/** @typedef {{id: string, groups: string[], grants: string[], places: Places}} Want */
/** @typedef {Want & {tab: string}} Member */
/** @typedef {import("./sse.js").EventDetail} EventDetail */
/** @typedef {import("./sse.js").Options} Options */
/** @typedef {import("./sse.js").SendOptions} SendOptions */
/** @typedef {(data: any, detail: any) => unknown} Listener */
/**
 * What a leader tells; `ids` are the streams that it concerns, none: all.
 * @typedef {{
 *   t: string, from?: string, ids?: string[], state?: State, reason?: string, at?: Places,
 *   names?: Map<string, string>, heartbeat?: number, name?: string, data?: string, group?: string,
 *   hash?: string, id?: string, old?: string, fresh?: string,
 * }} Told
 */

const BETWEEN_TABS = "sse_app 1 ";
const SILENCE = 2.5;
const LONGEST_WAIT = 60_000;
const JOINING = 500;
const SHRINKING = 2_000;
const PATIENCE = 60_000;
const FIELDS = new Set(["data", "event", "group", "id", "retry"]);

const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
/** Full jitter: anything up to a bound that doubles. @param {number} base @param {number} failures */
const jitter = (base, failures) => Math.random() * Math.min(LONGEST_WAIT, base * 2 ** failures);
/** @param {number} ms */
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
/** @param {string} text */
const parse = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
};

/** Splits a stream's text into blocks (HTML Standard, 9.2.6). */
export class Parser {
  #rest = "";
  #afterCr = false;
  /** @type {Block} */
  #block = {};
  #take;

  /** @param {(block: Block) => void} take */
  constructor(take) {
    this.#take = take;
  }

  /** @param {string} text  Decoded, without the byte order mark. */
  feed(text) {
    if (!text) return;
    if (this.#afterCr && text[0] === "\n") text = text.slice(1);
    this.#afterCr = text.endsWith("\r");
    const lines = (this.#rest + text).split(/\r\n|\n|\r/);
    this.#rest = /** @type {string} */ (lines.pop());
    for (const line of lines) this.#line(line);
  }

  /** @param {string} line */
  #line(line) {
    if (!line) {
      const block = this.#block;
      this.#block = {};
      if (Object.keys(block).length) this.#take(block);
      return;
    }
    const [, field, value] = /** @type {string[]} */ (/^([^:]*):? ?([^]*)$/.exec(line));
    if (!FIELDS.has(field)) return;
    const block = this.#block;
    if (field === "data") block.data = block.data === undefined ? value : `${block.data}\n${value}`;
    else if (field === "retry") block.retry = /^\d+$/.test(value) ? +value : block.retry;
    else if (field !== "id" || !value.includes("\0")) {
      block[/** @type {"event"} */ (field)] = value;
    }
  }
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
  const [[epoch, offset], [own, reached]] = [split(start), split(place)];
  return epoch === "0" || (epoch === own && offset <= reached);
}

/** The earlier of two places; of two logs the second. @param {string} a @param {string} b */
function earlier(a, b) {
  const [[epoch, offset], [other, reached]] = [split(a), split(b)];
  return (epoch === other ? offset < reached : epoch === "0") ? a : b;
}

// --- grants ---

/** What a signed page's grant names, and when it was given; null if that can't be read. */
/** @param {string} grant */
function readGrant(grant) {
  try {
    const [groups, , , , issued] = JSON.parse(
      atob(grant.split(":")[0].replace(/-/g, "+").replace(/_/g, "/")),
    );
    return Array.isArray(groups) ? { groups: groups.map(String), issued: Number(issued) } : null;
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
    .filter(({ groups }) => {
      const adds = groups.some((group) => !covered.has(group));
      for (const group of groups) covered.add(group);
      return adds;
    });
}

// --- requests up ---

const csrfToken = () =>
  /(?:^|[ -])csrftoken=([^;]+)/.exec(document.cookie)?.[1] ??
  /** @type {HTMLInputElement | null} */ (document.querySelector("[name=csrfmiddlewaretoken]"))?.value ??
  /** @type {HTMLMetaElement | null} */ (document.querySelector("meta[name=csrf-token]"))?.content ??
  "";

/** An answer that is no success: `status`, and the server's `answer` as it came or as JSON. */
export class RequestError extends Error {
  /** @param {number} status @param {any} answer */
  constructor(status, answer) {
    super([answer?.error ?? `The server answered ${status}.`].flat().join(" "));
    this.name = "RequestError";
    this.status = status;
    this.answer = answer;
  }
}

/** Whether an answer is passing. @param {number} status */
const passes = (status) => status === 408 || status === 429 || (status > 501 && status < 505);
/** @param {Response} response  In milliseconds; undefined if it does not say. */
const retryAfter = (response) => 1000 * Number(response.headers.get("Retry-After")) || undefined;

/**
 * @param {URL} url @param {unknown} body @param {Options} options @param {string} [key]
 * @returns {Promise<{response: Response, answer: any}>}
 */
async function post(url, body, options, key) {
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json", "X-CSRFToken": options.csrf?.() ?? csrfToken() };
  if (key) headers["Idempotency-Key"] = key;
  const response = await fetch(url, {
    method: "POST",
    headers,
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(PATIENCE),
  });
  return { response, answer: parse(await response.text()) };
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
  /** @type {State} */
  state = "connecting";
  #closed = false;
  #failures = 0;
  #heard = 0;
  #due = 0;
  #base = 1000;
  /** @type {number | undefined} */
  #wait;
  #reason = "";
  #over = "";
  /** @type {(() => void) | null} */
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
    this.#go?.();
  }

  /** Look at once whether it lives; `now`: it is certain that it has to be made again. */
  poke(now = false) {
    if (this.#go) {
      if (now || Date.now() >= this.#due) this.#go();
    } else if (now || Date.now() - this.#heard > this.#pool.silence) {
      this.#wait = 0;
      this.#reason = now ? "network" : "silent";
      this.#abort.abort();
    }
  }

  /** The browser says that there is no network; a byte that comes all the same is a better witness. */
  suspect() {
    if (this.opened) this.#turn("offline", "offline");
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
      if (!this.#over) this.#turn(navigator.onLine ? "reconnecting" : "offline", this.#reason);
      if (this.#over === "expired" && (await this.#pool.renew())) this.#over = "";
      if (this.#closed) return;
      if (this.#over) {
        this.close();
        return this.#pool.over(this.#over, this.#reason, this);
      }
      await this.#rest(this.#wait ?? jitter(this.#base, this.#failures++));
    }
  }

  /** @param {number} ms */
  #rest(ms) {
    this.#due = Date.now() + ms;
    return /** @type {Promise<void>} */ (
      new Promise((done) => {
        const timer = setTimeout(done, ms);
        this.#go = () => (clearTimeout(timer), done());
      })
    ).finally(() => (this.#go = null));
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
      if (status !== 200 && status < 500 && !passes(status)) this.#over = "refused";
      return;
    }
    if (!labelled) this.#open();
    const parser = new Parser((block) => this.#hear(block));
    const decoder = new TextDecoder();
    const reader = body.getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this.#closed) return;
      this.#alive();
      parser.feed(decoder.decode(value, { stream: true }));
      this.#pool.alive();
    }
  }

  /** Something came: if nothing does for long, this connection is dead. */
  #alive() {
    this.#heard = Date.now();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#abort.abort(), this.#pool.silence);
    if (this.opened && this.state !== "open") this.#turn("open", "");
  }

  #open() {
    this.opened = true;
    this.#failures = 0;
    this.#turn("open", "");
  }

  /** @param {Block} block */
  #hear(block) {
    if (this.#closed) return;
    const { event: name, data = "", retry } = block;
    const reason = name === "sse.close" || name === "sse.busy" ? String(parse(data)?.reason) : "";
    if (reason) {
      this.#wait = retry;
      this.#reason = name === "sse.busy" ? `busy: ${reason}` : reason;
      if (reason === "auth" || reason === "expired") this.#over = reason;
      if (this.#over === "expired") this.#wait = undefined;
    } else if (retry !== undefined) this.#base = retry;
    if (name === "sse.open") {
      this.opened = true;
      this.#pool.hear(block, this);
      this.#open();
    } else this.#pool.hear(block, this);
  }

  /** @param {State} state @param {string} reason */
  #turn(state, reason) {
    this.state = state;
    this.#pool.turn(state, reason, this);
  }
}

// --- who shares a connection ---

/** The shared ones of this page, by the path of their streams. @type {Map<string, Pool>} */
const shared = new Map();
/** All of them, also those of one stream. @type {Set<Pool>} */
const pools = new Set();

/** The streams of this page that share a connection, and the connection, if this tab leads. */
class Pool {
  heartbeat = 15_000;
  /** This page's. @type {Map<string, Stream>} */
  streams = new Map();
  #tab = random();
  #name;
  #leader = "";
  #heard = 0;
  #told = 0;
  #asked = false;
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
  #most = Infinity;
  /** @type {Told} */
  #status = { t: "state", state: "connecting", reason: "" };

  /** @param {string} path  That of the stream's URL; empty for a stream of its own. */
  constructor(path) {
    this.#name = path && BETWEEN_TABS + path;
    this.#leads.abort();
  }

  get silence() {
    return SILENCE * this.heartbeat;
  }

  /** @param {Stream} stream */
  add(stream) {
    this.streams.set(stream.id, stream);
    stream.pool = this;
    if (this.#held) this.#join([stream]);
    else this.start();
  }

  /** @param {Stream} stream */
  remove({ id }) {
    if (!this.streams.delete(id)) return;
    if (!this.streams.size) return this.stop();
    if (this.#leading) this.#leave([id]);
    else this.#post({ t: "leave", ids: [id] });
  }

  start() {
    if (this.#held || !this.streams.size) return;
    const held = (this.#held = new AbortController());
    pools.add(this);
    if (!this.#name || !navigator.locks || !("BroadcastChannel" in window)) return this.#lead();
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    // Whoever leads waits for this lock, and so learns of the end of this tab, however it ends.
    navigator.locks
      .request(`${this.#name} ${this.#tab}`, { signal: held.signal }, () => {
        this.#join([...this.streams.values()]);
        this.#compete();
        return new Promise((free) => held.signal.addEventListener("abort", free));
      })
      .catch(() => {});
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
    pools.delete(this);
    this.#leader = "";
    this.#asked = false;
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
    this.#told = Date.now();
    this.#post(told);
    this.#deliver(told);
  }

  /** @param {Told} told */
  #deliver(told) {
    this.heartbeat = told.heartbeat ?? this.heartbeat;
    for (const stream of [...this.streams.values()]) stream.take(told);
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
          this.#tell(this.#status);
        }
        return;
      }
      if (this.#leading) return; // Somebody takes over: the lock will say so.
      if (t === "lead") this.#leader = from;
      else if (from !== (this.#leader ||= from)) return;
      this.#heard = Date.now();
      this.#asked = false;
      if (t === "lead") this.#join([...this.streams.values()]);
      else this.#deliver(message);
    } catch {
      // It is no message of ours.
    }
  }

  /** @param {Stream[]} streams */
  #join(streams) {
    const wants = streams.map(({ want }) => want);
    if (this.#leading) this.#admit(this.#tab, wants);
    else this.#post({ t: "join", streams: wants });
  }

  /** A follower looks from time to time whether its leader is still there. */
  #look() {
    this.#watch = setTimeout(() => {
      this.#look();
      if (this.#leading) return;
      const quiet = Date.now() - this.#heard > this.silence;
      if (quiet && this.#asked) return this.#compete(true);
      const content = [...this.streams.values()].every(({ state }) => state === "open");
      if (!content || quiet) this.#post({ t: "ask" });
      this.#asked = quiet;
    }, Math.max(1000, this.heartbeat));
  }

  /** Wait for the lock; `steal` it from a tab that hangs. */
  #compete(steal = false) {
    this.#turn.abort();
    const { signal } = (this.#turn = new AbortController());
    this.#asked = false;
    navigator.locks
      .request(/** @type {string} */ (this.#name), steal ? { steal } : { signal }, () => {
        if (signal.aborted) return;
        void this.#lead();
        return new Promise((free) => signal.addEventListener("abort", free));
      })
      .catch(() => {
        if (signal.aborted) return;
        // Somebody took it, as this tab hung.
        this.#resign();
        this.#leader = "";
        this.#compete();
        this.#join([...this.streams.values()]);
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
        const late = this.#expected.size > 0;
        this.#expected.clear();
        if (late && this.#leading) this.#open();
      }, JOINING);
    }
    this.#join([...this.streams.values()]);
  }

  #resign() {
    this.#leads.abort();
    this.#line?.close();
    this.#next?.close();
    this.#line = this.#next = null;
    for (const kept of [this.#members, this.#tabs, this.#at, this.#wanted, this.#names]) kept.clear();
  }

  get #groups() {
    return new Set([...this.#members.values()].flatMap(({ groups }) => groups));
  }

  /** @param {string} tab @param {Want[]} wants */
  #admit(tab, wants) {
    this.#expected.delete(tab);
    if (tab !== this.#tab && !this.#tabs.has(tab)) {
      this.#tabs.add(tab);
      const mine = () => [...this.#members.values()].filter((member) => member.tab === tab);
      navigator.locks
        .request(`${this.#name} ${tab}`, { signal: this.#leads.signal }, () => {
          this.#tabs.delete(tab);
          this.#leave(mine().map(({ id }) => id));
        })
        .catch(() => {});
    }
    let more = false;
    for (const want of wants) {
      if (new Set([...this.#groups, ...want.groups]).size > this.#most) {
        this.#tell({ t: "alone", ids: [want.id] });
        continue;
      }
      this.#members.set(want.id, { ...want, tab });
      if (!this.#serves(want)) {
        more = true;
        for (const [hash, place] of want.places) {
          const known = this.#wanted.get(hash);
          this.#wanted.set(hash, known ? earlier(place, known) : place);
        }
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
    const { ids } = /** @type {Line} */ (this.#line);
    const { heartbeat } = this;
    this.#tell({ t: "open", ids, heartbeat, at: this.#at, names: this.#names });
  }

  // --- for the connection ---

  target() {
    const members = [...this.#members.values()];
    const ids = members.map(({ id }) => id);
    const grants = fewest(members.flatMap((member) => member.grants));
    if (!this.#name) {
      const [stream] = this.streams.values();
      return { ...stream.target(grants.map(({ text }) => text)), ids };
    }
    const query = new URLSearchParams();
    const signed = new Set(grants.flatMap(({ groups }) => groups));
    // In one order, so that the server can write to streams of the same groups as to one.
    for (const group of [...this.#groups].sort()) if (!signed.has(group)) query.append("group", group);
    for (const { text } of grants) query.append("grant", text);
    query.append("label", "1");
    const from = new Map(this.#at);
    for (const [hash, place] of this.#wanted) {
      const known = from.get(hash);
      from.set(hash, known ? earlier(place, known) : place);
    }
    const url = new URL(`?${query}`, location.origin + this.#name.slice(BETWEEN_TABS.length));
    return { url, cursor: idOf(from), ids, labelled: true };
  }

  /** A sign of life for the followers, where nothing else gives one. */
  alive() {
    if (Date.now() - this.#told > this.heartbeat / 2) this.#tell({ t: "alive" });
  }

  /** @param {State} state @param {string} reason @param {Line} line */
  turn(state, reason, line) {
    if (line === this.#next && this.#line?.opened) return;
    this.#status = { t: "state", state, reason };
    this.#tell(this.#status);
  }

  /** @param {Block} block @param {Line} line */
  hear({ event: name = "message", data, group, id }, line) {
    if (line !== this.#line && name !== "sse.open") return;
    /** @type {Places | null} */
    let places = null;
    if (this.#name && id !== undefined) places = placesOf(id);
    if (name === "sse.open") this.#opened(parse(data ?? ""), places, line);
    else if (places) this.#at = places;
    if (data === undefined && this.#name) return;
    if (name === "sse.reset") group = parse(data ?? "")?.group;
    const hash = group && this.#names.get(group);
    this.#tell({
      t: "event",
      name,
      data,
      group,
      hash,
      id: hash && places ? places.get(hash) : this.#name ? undefined : id,
    });
  }

  /** @param {any} data @param {Places | null} places @param {Line} line */
  #opened(data, places, line) {
    if (line === this.#next) {
      this.#line?.close();
      this.#line = line;
      this.#next = null;
    }
    if (data?.heartbeat) this.heartbeat = data.heartbeat * 1000;
    if (!this.#name) return;
    if (!places) return this.#disband();
    this.#most = data.max_groups;
    this.#at = places;
    this.#wanted.clear();
    const hashes = [...places.keys()];
    this.#names = new Map(data.groups.map((/** @type {string} */ group, /** @type {number} */ n) => [group, hashes[n]]));
    this.#welcome();
  }

  /** Let each of the members open a connection of its own. @param {string[]} ids */
  #disband(ids = [...this.#members.keys()]) {
    for (const id of ids) this.#members.delete(id);
    if (!this.#members.size) {
      this.#line?.close();
      this.#line = null;
    }
    this.#tell({ t: "alone", ids });
  }

  /** @param {string} what @param {string} reason @param {Line} line */
  over(what, reason, line) {
    if (line === this.#next) {
      // It was the last ones' to be refused.
      this.#next = null;
      this.#wanted.clear();
      const former = this.#line;
      this.#disband([...this.#members.keys()].filter((id) => !former?.ids.includes(id)));
      if (former?.opened) former.retired = false;
      else this.#open();
    } else if (line === this.#line) {
      this.#line = null;
      if (what === "refused" && this.#members.size > 1) return this.#disband();
      this.#dismiss([...this.#members.keys()], what === "refused" ? `refused: ${reason}` : what);
    }
  }

  /** @param {string[]} ids @param {string} reason */
  #dismiss(ids, reason) {
    for (const id of ids) this.#members.delete(id);
    this.#tell({ t: "state", state: "closed", reason, ids });
  }

  /**
   * Have the oldest grant renewed, as it ends first. Without it, those who came with it are closed.
   * Returns whether there is somebody to go on for.
   */
  async renew() {
    const [stream] = this.streams.values();
    const members = [...this.#members.values()];
    const old = fewest(members.flatMap(({ grants }) => grants)).pop()?.text;
    if (!old || !stream) return false;
    try {
      const { response, answer } = await post(stream.sibling("renew/"), { grant: old }, stream.options);
      if (response.ok) this.#renewed(old, String(answer.grant));
      else if (!passes(response.status) && response.status < 500) {
        const ids = members.filter(({ grants }) => grants.includes(old)).map(({ id }) => id);
        this.#dismiss(ids, "expired");
      }
    } catch {
      // Away; the stream is too, and both are tried again.
    }
    return this.#members.size > 0;
  }

  /** @param {string} old @param {string} fresh */
  #renewed(old, fresh) {
    for (const member of this.#members.values()) {
      member.grants = member.grants.map((grant) => (grant === old ? fresh : grant));
    }
    this.#tell({ t: "grant", old, fresh });
  }
}

addEventListener("online", () => lines.forEach((line) => line.poke(true)));
addEventListener("offline", () => lines.forEach((line) => line.suspect()));
document.addEventListener("visibilitychange", () => lines.forEach((line) => line.poke()));
const sleep = () => pools.forEach((pool) => (resting.add(pool), pool.stop()));
const wake = () => resting.forEach((pool) => (resting.delete(pool), pool.start()));
/** @type {Set<Pool>} */
const resting = new Set();
addEventListener("pagehide", sleep);
document.addEventListener("freeze", sleep);
addEventListener("pageshow", wake);
document.addEventListener("resume", wake);

// --- what the page has ---

/** A stream as the page sees it; made by `connect()`. */
export class Stream {
  id = random();
  /** @type {State} */
  state = "connecting";
  /** Why it is in this state, empty if there is nothing to say. */
  reason = "";
  /** @type {Pool | null} */
  pool = null;
  /** @type {Options} */
  options;
  #url;
  /** @type {string[]} */
  #groups;
  /** @type {string[]} */
  #grants;
  /** @type {Places} */
  #places;
  /** The last id, where ids are not read. */
  #lastId;
  #served = false;
  /** @type {Map<string, Set<Listener>>} */
  #listeners = new Map();
  /** What came while the page starts over. @type {[string, any, EventDetail][] | null} */
  #queue = null;
  #again = false;

  /** @param {string | URL} url @param {Options} options */
  constructor(url, options) {
    this.options = options;
    this.#url = new URL(url, document.baseURI);
    const query = this.#url.searchParams;
    this.#lastId = query.get("last_event_id") ?? query.get("lastEventId") ?? "";
    query.delete("last_event_id");
    query.delete("lastEventId");
    this.#grants = query.getAll("grant");
    const signed = this.#grants.map(readGrant);
    this.#groups = [...new Set([...query.getAll("group"), ...signed.flatMap((grant) => grant?.groups ?? [])])];
    const places = placesOf(this.#lastId);
    this.#places = places ?? new Map();
    const known = [...query.keys()].every((key) => key === "group" || key === "grant");
    const readable = signed.every(Boolean) && (places || !this.#lastId);
    const shares = options.share !== false && known && readable && this.#groups.length > 0;
    const { origin, pathname } = this.#url;
    if (!shares || origin !== location.origin) this.#alone();
    else {
      this.#lastId = "";
      const pool = shared.get(pathname) ?? new Pool(pathname);
      shared.set(pathname, pool);
      pool.add(this);
    }
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

  /** What it asks of one of its own. @param {string[]} grants */
  target(grants) {
    const url = new URL(this.#url);
    const query = url.searchParams;
    if (this.#grants.length) query.delete("grant");
    for (const grant of grants) query.append("grant", grant);
    const labelled = this.#groups.length > 0;
    if (labelled) query.set("label", "1");
    return { url, cursor: this.#lastId, labelled };
  }

  /** The address beside the stream's. @param {string} name */
  sibling(name) {
    return new URL(name, this.#url.origin + this.#url.pathname.replace(/\/?$/, "/"));
  }

  /**
   * Call `fn(data, detail)` for each event of that name; "*" is every event, "state" the state.
   * @param {string} event @param {Listener} fn
   */
  on(event, fn) {
    const known = this.#listeners.get(event) ?? new Set();
    this.#listeners.set(event, known.add(fn));
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
  async send(event, data = null, { group = this.#groups[0], key = random(), patience = PATIENCE } = {}) {
    if (!group) throw new TypeError("send() needs a group: send(event, data, {group}).");
    const until = Date.now() + patience;
    for (let failures = 0; ; failures++) {
      /** @type {unknown} */
      let failure;
      let wait;
      try {
        const { response, answer } = await post(this.sibling("send/"), { group, event, data }, this.options, key);
        if (response.ok) return answer;
        failure = new RequestError(response.status, answer);
        if (!passes(response.status)) throw failure;
        wait = retryAfter(response);
      } catch (error) {
        if (error instanceof RequestError) throw error;
        failure = error;
      }
      wait ??= jitter(500, failures);
      if (Date.now() + wait > until) throw failure;
      await pause(wait);
    }
  }

  /** What the connection says. @param {Told} told */
  take(told) {
    const { t, ids, state = "open", reason = "" } = told;
    const mine = !ids || ids.includes(this.id);
    if (t === "open") {
      this.#served = mine;
      if (mine) this.#settle(told);
    } else if (t === "state") {
      if (mine && (this.#served || state !== "open")) this.#turn(state, reason);
    } else if (t === "grant") {
      const { old, fresh = "" } = told;
      this.#grants = this.#grants.map((grant) => (grant === old ? fresh : grant));
    } else if (t === "alone" && mine) {
      this.pool?.remove(this);
      this.#alone();
    } else if (t === "event" && this.#served) this.#hear(told);
  }

  /** A connection begins: see whether it does so in time for this stream. @param {Told} told */
  #settle({ names = new Map(), at = new Map() }) {
    for (const group of this.#groups) {
      const hash = names.get(group);
      const start = hash && at.get(hash);
      if (!start) continue;
      const own = this.#places.get(hash);
      if (!own || !covers(start, own)) this.#places.set(hash, start);
      if (own && !covers(start, own)) {
        this.#emit("sse.reset", { group, reason: "unknown" }, { event: "sse.reset", id: "", group });
      }
    }
    this.#turn("open", "");
  }

  /** @param {Told} told */
  #hear({ name = "message", data = "", group, hash, id }) {
    if (hash && id) {
      if (!this.#groups.includes(group ?? "")) return;
      const own = this.#places.get(hash);
      // A reset to where it stands is for somebody else who shares the connection.
      if (own && (name === "sse.reset" ? id === own : covers(id, own))) return;
      this.#places.set(hash, id);
    } else if (group && this.#groups.length && !this.#groups.includes(group)) return;
    else if (id !== undefined && !hash) this.#lastId = id;
    this.#emit(name, parse(data), { event: name, id: hash && id ? `1.${hash}-${id}` : (id ?? ""), group });
  }

  /** @param {string} name @param {any} data @param {EventDetail} detail */
  #emit(name, data, detail) {
    if (name === "sse.reset") void this.#startOver(data, detail);
    if (this.#queue && !name.startsWith("sse.")) this.#queue.push([name, data, detail]);
    else this.#call(name, data, detail);
  }

  /** @param {string} name @param {any} data @param {any} detail */
  #call(name, data, detail) {
    const own = name === "state" && detail.event ? [] : (this.#listeners.get(name) ?? []);
    const all = detail.event ? (this.#listeners.get("*") ?? []) : [];
    for (const fn of [...own, ...all]) {
      try {
        fn(data, detail);
      } catch (error) {
        reportError(error); // One listener's failure is its own.
      }
    }
  }

  /** What was is lost: load it again; what comes meanwhile waits. @param {any} data @param {EventDetail} detail */
  async #startOver(data, detail) {
    this.#again = true;
    if (this.#queue) return;
    this.#queue = [];
    for (let failures = 0; this.#again && this.state !== "closed"; ) {
      this.#again = false;
      try {
        await this.#reload(data, detail);
      } catch (error) {
        console.warn("Starting over failed and is tried again:", error);
        this.#again = true;
        await pause(jitter(1000, failures++));
      }
    }
    const queue = this.#queue;
    this.#queue = null;
    for (const waiting of queue) this.#call(...waiting);
  }

  /** @param {any} data @param {EventDetail} detail */
  async #reload(data, detail) {
    const { reset, fragment } = this.options;
    if (reset) return reset(data, detail);
    if (fragment) return reloadFragment(fragment);
    if (!this.#listeners.get("sse.reset")?.size) return reloadPage();
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
  const response = await fetch(location.href, { cache: "no-store", headers: { Accept: "text/html" } });
  if (!response.ok) throw new RequestError(response.status, "");
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const [fresh, stale] = [page.querySelector(selector), document.querySelector(selector)];
  if (!fresh || !stale) throw new Error(`No ${selector} in the page.`);
  stale.replaceWith(document.adoptNode(fresh));
}

/** Reload the page, at a moment of its own, and not for ever if the page itself is too old. */
async function reloadPage() {
  await pause(jitter(1000, 0));
  const last = Number(sessionStorage.getItem(BETWEEN_TABS));
  sessionStorage.setItem(BETWEEN_TABS, String(Date.now()));
  if (Date.now() - last > LONGEST_WAIT) location.reload();
}

/** Open a stream. @param {string | URL} url @param {Options} [options] */
export const connect = (url, options = {}) => new Stream(url, options);

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
    const stream = (this.stream = connect(url, { fragment: this.getAttribute("fragment") ?? "" }));
    const show = () => {
      this.setAttribute("state", stream.state);
      this.toggleAttribute("reason", !!stream.reason);
      if (stream.reason) this.setAttribute("reason", stream.reason);
    };
    show();
    stream.on("state", (state, detail) => {
      show();
      this.dispatchEvent(new CustomEvent("sse-state", { bubbles: true, detail: { state, ...detail } }));
    });
  }
}

if (!customElements.get("sse-stream")) customElements.define("sse-stream", StreamElement);
