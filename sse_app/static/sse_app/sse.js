/**
 * The page's end of a stream: `connect(url)` and `<sse-stream url="…">`.
 *
 * Decisions, and why:
 *
 * - `fetch()` and not `EventSource`: it shows status codes (a 503 is not the end), headers and the
 *   heartbeat (a comment); a silent connection can be aborted; and this script decides when to retry.
 * - One connection for all tabs, by Web Locks and a BroadcastChannel, because SharedWorker is missing on Android.
 *   The tab with the lock, the leader, has the connection and sends its events to the other tabs. When a tab is closed,
 *   crashes or goes to the back/forward cache, its lock is free immediately. Followers steal the lock of a leader that
 *   hangs. Without Web Locks or BroadcastChannel, as on plain HTTP, each tab has its own connection.
 * - Only pages of one user share a connection. The tags write a digest of the user into the page, and `sse.open` has
 *   the digest of the connection's session. If the two differ, the page is old and the server is right.
 * - Every stream keeps its own position per group. So with any leader, and from any start of the connection, a stream
 *   shows each event once, and knows whether the connection begins too late for it. For this purpose the script parses
 *   ids, which are opaque for other clients: `1.<hash>-<epoch>-<offset>` per group. Streams with ids of another version
 *   are not shared, and their ids are sent back unchanged.
 * - `label=1` asks the server for a line `group: …` in each event, as an event without an id would not name its group,
 *   and for the server's limits in `sse.open`.
 * - When the union of the tabs' groups changes, the new connection opens before the old one is closed. If the new one is
 *   refused, the streams that were added get their own connections, and the others lose nothing.
 */

/** @typedef {Map<string, string>} Positions  By a group's hash: `<epoch>-<offset>`. */
/** @typedef {{data?: string, event?: string, group?: string, id?: string, retry?: string, streams?: string, tab?: string, except?: string}} Block */
/** @typedef {"connecting" | "open" | "reconnecting" | "offline" | "closed"} State */
/** @typedef {{id: string, groups: string[], grants: string[], places: Positions}} Want */
/** @typedef {Want & {tab: string}} Member */
/** @typedef {(data: any, detail: any) => unknown} Listener */
/** @typedef {{event: string, id: string, group?: string, streams?: number}} EventDetail */
/** @typedef {{reset?: Listener, fragment?: string | null, csrf?: () => string, share?: boolean}} Options */
/** @typedef {{group?: string, key?: string}} SendOptions */
/**
 * A message of the leader. `ids` are the streams that it is for; without `ids` it is for all streams.
 * @typedef {Record<string, any>} Message
 */

/** With the version of the messages between tabs. */
const BETWEEN_TABS = "sse_app 2 ";
const RESET = "sse.reset";
const LONGEST_TIMER = 3_600_000;
/** The longest wait for an answer, and between two attempts. */
const LONGEST_WAIT = 60_000;
const ASKED = 2;
const JOINING = 500;
const SHRINKING = 2_000;
/** The standard ignores a `retry` that is not a number and an `id` that has a NUL. */
const LINE = /^(data|event|group|streams|tab|except|id(?![^]*\0)|retry(?=: ?\d+$))(?:: ?([^]*))?$/;
const JSON_TYPE = "application/json";

const random = () => crypto.getRandomValues(new Uint32Array(4)).join("-");
/** Full jitter: a random time up to a bound that doubles with each failure. @param {number} base @param {number} failures */
const jitter = (base, failures) => Math.random() * Math.min(LONGEST_WAIT, base * 2 ** failures);
/** @param {string} events @param {(_: any) => void} fn */
const when = (events, fn) => events.split(" ").forEach((name) => addEventListener(name, fn, true));
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
 * Splits a stream's text into blocks (HTML Standard, 9.2.6). Returns a function that takes the text
 * in chunks, decoded and without the byte order mark.
 * @param {(block: Block) => void} take
 */
export function parser(take) {
  let rest = "";
  let afterCr = false;
  /** @type {any} */
  let block;

  /** @param {string} line */
  function read(line) {
    if (!line) {
      const whole = block;
      block = undefined;
      if (whole) take(whole);
      return;
    }
    const [, field, value = ""] = LINE.exec(line) ?? [];
    if (!field) return;
    block ??= {};
    block[field] = field === "data" && "data" in block ? `${block.data}\n${value}` : value;
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

// --- positions ---

/** The positions in an id, in its order; null for an id that this script can't parse. @param {string} id */
function placesOf(id) {
  if (!/^1(\.\w{8}-\w+-\d\w*)+$/.test(id)) return null;
  const parts = id.split(".").slice(1);
  return new Map(parts.map((part) => /** @type {[string, string]} */ (part.split(/-(.*)/))));
}

/** @param {Positions} places */
const idOf = (places) =>
  places.size ? ["1", ...[...places].map((part) => part.join("-"))].join(".") : "";

/**
 * Whether a stream at `place` misses no event on a connection that begins at `start`. Epoch "0" is
 * before the first event; if the server can't continue from there, it sends a reset. An offset ends with the mark of
 * its event: the same offset with another mark is of a log that went back.
 * @param {string} start @param {string} place
 */
function covers(start, place) {
  const [[epoch, offset], [own, reached]] = [start, place].map((text) => text.split("-"));
  return start === place || epoch === "0" || (epoch === own && parseInt(offset) < parseInt(reached));
}

/**
 * Move `places` back as far as the streams at `others` need. If the epochs differ, its own position stays:
 * the streams with the other epoch are reset when the connection has opened.
 * @param {Positions} places @param {Positions} others
 */
function include(places, others) {
  for (const [hash, place] of others) {
    const known = places.get(hash);
    if (!known || covers(place, known)) places.set(hash, place);
  }
}

// --- grants ---

/** The groups of a signed page's grant, and when it was made; null if the grant can't be parsed. */
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

/** The fewest grants that permit all the groups of `grants`, newest first. @param {Iterable<string>} grants */
function fewest(grants) {
  const all = [...new Set(grants)].map((text) => ({ text, groups: [text], issued: 0, ...readGrant(text) }));
  const covered = new Set();
  return all
    .sort((a, b) => b.issued - a.issued)
    .filter(({ groups }) => groups.filter((group) => !covered.has(group) && covered.add(group)).length);
}

// --- requests up ---

/** What the page's last tag has: its user, and what differs from Django's defaults for CSRF. */
const pageTag = () =>
  /** @type {HTMLElement | undefined} */ ([...document.querySelectorAll("[data-sse]")].pop())?.dataset ?? {};

/** The header with the CSRF token. @param {string} [given] */
function csrfHeader(given) {
  const { csrfHeader = "X-CSRFToken", csrfCookie = "csrftoken", csrfToken } = pageTag();
  /** @type {any} */
  const element = document.querySelector("[name=csrfmiddlewaretoken]");
  // The cookie first: a login in another tab has changed it.
  const cookie = document.cookie.match(`(?:^|[ -])${csrfCookie}=([^;]+)`)?.[1];
  return { [csrfHeader]: given ?? cookie ?? element?.value ?? csrfToken ?? "" };
}

/** An answer other than the app's: its `status`, and its body as `answer`, parsed if it is JSON. */
export class RequestError extends Error {
  /** @param {number} status @param {any} answer @param {string} type */
  constructor(status, answer, type) {
    super([answer?.error ?? `HTTP ${status} ${type}`].flat().join(" "));
    this.status = status;
    this.answer = answer;
  }
}

/** A promise that holds a lock until `signal`. @param {AbortSignal} signal */
const until = (signal) => new Promise((free) => signal.addEventListener("abort", free));
/** @param {string} name @param {LockOptions} options @param {() => unknown} fn */
const lock = async (name, options, fn) => navigator.locks.request(name, options, fn);

/** Whether the request may succeed later; 0 is no answer. @param {number} status */
const passes = (status) => !status || status === 429 || status >= 500;
/** @param {Response} response */
const typeOf = (response) => response.headers.get("Content-Type") ?? "";
/** @param {Response} response  In milliseconds; undefined without the header. */
const retryAfter = (response) => 1000 * /** @type {any} */ (response.headers.get("Retry-After")) || undefined;

/**
 * The app's answer to a POST, or an `error` for any other outcome; status 0: no answer.
 * @param {URL} url @param {unknown} data @param {Options} options
 * @returns {Promise<{status: number, answer?: any, error?: unknown, wait?: number}>}
 */
async function post(url, data, options, key = random()) {
  const body = JSON.stringify(data);
  const headers = {
    "Content-Type": JSON_TYPE,
    ...(url.origin === location.origin && csrfHeader(options.csrf?.())),
    ...(key && { "Idempotency-Key": key }),
  };
  try {
    // A redirect would lead to a login page, or send the token and the message to another site.
    const response = await fetch(url, { method: "POST", headers, body, redirect: "manual", signal: AbortSignal.timeout(LONGEST_WAIT) });
    const status = response.status || 302; // The browser hides the status of a redirect.
    const type = typeOf(response);
    const answer = parse(await response.text());
    const ours = status === 200 && type.startsWith(JSON_TYPE);
    return { status, answer, wait: retryAfter(response), error: !ours && new RequestError(status, answer, type) };
  } catch (error) {
    return { status: 0, error };
  }
}

// --- one connection ---

/** How many attempts in a row brought no byte. After two, a proxy may hold each response back until its end. */
let silences = 0;

/** A connection that is opened again whenever it ends, until it is closed or refused for good. */
class Line {
  opened = false;
  /** The ids of the streams that it serves. @type {string[]} */
  ids = [];
  #closed = false;
  #failures = 0;
  /** When its wait ends, or its silence is too long; compared with the clock after a sleep of the machine. */
  #due = 0;
  #base = 1000;
  /** @type {number | undefined} */
  #wait;
  #reason = "";
  /** Ends the attempt, or the wait for the next one. */
  #abort = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #pool;

  /** @param {Pool} pool */
  constructor(pool) {
    this.#pool = pool;
  }

  close() {
    this.#closed = true;
    this.#abort.abort();
  }

  /** Check now whether the connection is alive; `now`: reconnect in any case. @param {boolean} now */
  poke(now) {
    if (now) this.#failures = silences = 0;
    else if (Date.now() < this.#due) return;
    this.#wait = 0;
    this.#reason = now ? "network" : "silent";
    this.#abort.abort();
  }

  async run() {
    this.#pool.turn("connecting", "", this);
    while (!this.#closed) {
      this.#wait = undefined;
      this.#reason = "";
      const brief = silences > 1;
      let refused;
      try {
        refused = await this.#once(brief);
      } catch {
        this.#reason ||= this.#abort.signal.aborted ? "silent" : "network";
      }
      silences += +(this.#reason === "silent");
      clearTimeout(this.#timer);
      this.#abort.abort();
      this.opened = false;
      if (this.#closed) return;
      if (this.#pool.next && this.#pool.next !== this) return this.close(); // The next connection is opening.
      if (refused) {
        this.close();
        return this.#pool.refused(`refused: ${this.#reason}`, this);
      }
      if (!brief || this.#reason !== "age") this.#pool.turn(navigator.onLine ? "reconnecting" : "offline", this.#reason, this);
      if (this.#reason === "expired") await this.#pool.renew();
      if (this.#closed) return;
      this.#abort = new AbortController();
      this.#abortIn(this.#wait ?? jitter(this.#base, this.#failures++));
      await until(this.#abort.signal);
    }
  }

  /** Returns whether the server refuses this for good. @param {boolean} brief  Ask for a response that ends after its first events. */
  async #once(brief) {
    this.#abort = new AbortController();
    this.#abortIn();
    const { url, cursor, ids, groups } = this.#pool.target();
    this.ids = ids;
    if (brief) url.searchParams.set("wait", "20");
    const response = await fetch(url, {
      headers: { Accept: "text/event-stream", ...(cursor && { "Last-Event-ID": cursor }) },
      cache: "no-store",
      credentials: "include",
      signal: this.#abort.signal,
    });
    const { status, body } = response;
    this.#reason = `HTTP ${status}`;
    this.#wait = retryAfter(response);
    if (status !== 200) return !passes(status);
    if (!typeOf(response).startsWith("text/event-stream")) return;
    this.#reason = "";
    if (!groups.length) this.#open();
    const feed = parser((block) => this.#receive(block));
    const decoder = new TextDecoder();
    const reader = /** @type {ReadableStream} */ (body).getReader();
    for (let first = 0; ; ) {
      const { done, value } = await reader.read();
      first ||= Date.now();
      // Nothing held the beginning of this response back.
      if (!brief || (done && Date.now() - first > 1000)) silences = 0;
      if (done || this.#closed) return;
      this.#abortIn();
      feed(decoder.decode(value, { stream: true }));
    }
  }

  /** The default is the time without a byte after which the connection is dead. */
  #abortIn(ms = 2.5 * this.#pool.heartbeat) {
    ms = Math.min(ms, LONGEST_TIMER); // A timer of many days would fire immediately.
    this.#due = Date.now() + ms;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#abort.abort(), ms);
  }

  #open() {
    this.opened = true;
    this.#failures = 0;
    this.#pool.turn("open", silences > 1 ? "buffered" : "", this);
  }

  /** @param {Block} block */
  #receive(block) {
    if (this.#closed) return;
    const { event: name, data, retry } = block;
    const busy = name === "sse.busy";
    const { reason, groups } = busy || name === "sse.close" ? (parse(data) ?? {}) : {};
    const over = /^(auth|end)$/.test(reason);
    if (reason) this.#reason = busy ? `busy: ${reason}` : reason;
    if (retry && !reason) this.#base = +retry;
    else if (retry && !over && reason !== "expired") this.#wait = +retry;
    this.#pool.hear(block, this);
    if (name === "sse.open") this.#open();
    if (over) this.#pool.lose(reason, groups);
  }
}

// --- streams that share a connection ---

/** The pools of this page that have streams, by name. @type {Map<string, Pool>} */
const pools = new Map();

/** The streams of this page that share a connection, and the connection, if this tab leads. */
class Pool {
  /** The server's message when the connection opened. @type {any} */
  about = {};
  /** The streams of this page. @type {Set<Stream>} */
  streams = new Set();
  /** The ids of the streams that the connection serves, by the leader's last message. @type {string[]} */
  served = [];
  #tab = random();
  #path;
  #user;
  #name;
  #leader = "";
  /** How often this tab has asked its leader for an answer since the last answer. */
  #asked = 0;
  /** @type {BroadcastChannel | null} */
  #channel = null;
  /** Releases the locks of this page and ends its waits. @type {AbortController | null} */
  #held = null;
  /** Ends the wait for the lock. */
  #turn = new AbortController();
  /** @type {ReturnType<typeof setInterval> | undefined} */
  #watch;

  // Only used by the leader:
  /** Ends this tab's time as the leader. @type {AbortController | null} */
  #leads = null;
  /** @type {Map<string, Member>} */
  #members = new Map();
  /** Tabs that have not named their streams yet. @type {Set<string>} */
  #expected = new Set();
  /** @type {Set<string>} */
  #tabs = new Set();
  /** @type {Line | null} */
  #line = null;
  /** The connection that replaces this one once it has opened. @type {Line | null} */
  next = null;
  /** The positions of the connection. @type {Positions} */
  #at = new Map();
  /** The positions of the streams that it does not serve yet. @type {Positions} */
  #wanted = new Map();
  /** @type {Map<string, string>} */
  #names = new Map();

  /** @param {string} path  Empty for a connection that is not shared. @param {string | undefined} user @param {string} name */
  constructor(path, user, name) {
    this.#path = path;
    this.#user = user;
    this.#name = name;
  }

  /** In milliseconds. */
  get heartbeat() {
    return 1000 * (this.about.heartbeat ?? 15);
  }

  /** @param {Stream} stream */
  add(stream) {
    pools.set(this.#name, this);
    this.streams.add(stream);
    stream.pool = this;
    if (this.#held) this.#join([stream]);
    else this.start();
  }

  /** @param {Stream} stream */
  remove(stream) {
    this.streams.delete(stream);
    if (this.streams.size) return this.#ask("leave", [{ id: stream.id }]);
    pools.delete(this.#name);
    this.stop();
  }

  async start() {
    if (this.#held) return;
    const held = (this.#held = new AbortController());
    if (!this.#path) return this.#lead();
    this.#look();
    try {
      this.#channel = new BroadcastChannel(this.#path);
      this.#channel.onmessage = ({ data }) => this.#receive(data);
      // The leader waits for this lock, and so notices when this tab ends in any way.
      await lock(`${this.#name} ${this.#tab}`, held, () => {
        this.#join();
        this.#compete();
        return until(held.signal);
      });
    } catch {
      if (held.signal.aborted) return;
      // This page has no channel or no locks, as on plain HTTP, in a sandboxed frame or without storage.
      this.#channel?.close();
      this.#channel = null;
      this.#lead();
    }
  }

  /** Release everything that keeps the page out of the back/forward cache, or other tabs waiting. */
  stop() {
    this.#held?.abort();
    this.#held = null;
    this.#turn.abort();
    this.#resign();
    this.#channel?.close();
    this.#channel = null;
    clearTimeout(this.#watch);
    this.#leader = "";
    this.served = [];
  }

  get #all() {
    return [...this.#members.values()];
  }

  // --- between tabs ---

  /** @param {object} message */
  #post(message) {
    this.#channel?.postMessage({ ...message, from: this.#tab, user: this.#user });
  }

  /** Send to all tabs, and to this page. @param {Message} message */
  #broadcast(message) {
    this.#post(message);
    this.#deliver(message);
  }

  /** @param {Message} message */
  #deliver(message) {
    if (message.t === "open") ({ about: this.about, ids: this.served } = message);
    for (const stream of this.streams) stream.take(message);
  }

  /** @param {any} message  From a tab of this origin; one with another script may send anything. */
  #receive(message) {
    try {
      const { t, from, user } = message;
      if (user !== this.#user) {
        // A page of another user has opened. A new connection shows which user's session the browser has now.
        return t === "lead" && user !== undefined && this.#leads && this.#open();
      }
      if (message.streams) return this.#leads && this.#serve(message);
      // Also from the previous leader: its lock may be free before its last message arrives.
      if (t === "go") return this.#deliver(message);
      if (this.#leads) return; // Another tab takes over, and will get the lock.
      if (t === "lead") this.#leader = from;
      if (from !== (this.#leader ||= from)) return;
      this.#asked = 0;
      if (t === "lead") this.#join();
      else this.#deliver(message);
      if (this.#held) this.#look();
    } catch {
      // Not a message of this script.
    }
  }

  /** @param {Iterable<Stream>} streams */
  #join(streams = this.streams) {
    this.#ask("join", [...streams].map(({ want }) => want));
  }

  /** Ask the leader, which may be this tab. @param {string} t @param {any[]} streams */
  #ask(t, streams) {
    if (this.#leads) this.#serve({ t, streams, from: this.#tab });
    else this.#post({ t, streams });
  }

  /** A follower asks its leader for an answer, which also makes the leader check its connection. */
  #look() {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      this.#look();
      if (this.#leads) return;
      if (this.#asked++ < ASKED) this.#ask("ask", []);
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
      // Another tab stole the lock, because this tab hung.
      this.#resign();
      this.#leader = "";
      this.#compete();
      this.#join();
    });
  }

  // --- only used by the leader ---

  async #lead() {
    this.#leads = new AbortController();
    this.#leader = this.#tab;
    this.#expected = new Set([this.#tab]);
    if (this.#channel) {
      // The tabs answer with their streams; then one connection is opened for all.
      /** @type {any} */
      const { held } = await navigator.locks.query().catch(() => ({})); // Then the others answer later.
      for (const { name } of held ?? []) {
        const [, tab] = name.split(`${this.#name} `);
        if (tab) this.#expected.add(tab);
      }
      if (!this.#leads) return;
      this.#post({ t: "lead" });
      setTimeout(() => {
        this.#expected.clear();
        if (!this.#line) this.#open();
      }, JOINING);
    }
    this.#join();
  }

  #resign() {
    this.#leads?.abort();
    this.#leads = null;
    this.#line?.close();
    this.next?.close();
    this.#line = this.next = null;
    this.#members.clear();
    this.#tabs.clear();
    this.#at.clear();
    this.#wanted.clear();
    this.#names.clear();
  }

  /** @param {any} message */
  #serve({ t, streams, from }) {
    if (t === "join") return this.#admit(from, streams);
    if (t === "leave") return this.#leave(streams);
    this.poke();
    this.#broadcast({ t: "alive" });
  }

  /** When the page wakes up, check its connections. */
  poke(now = false) {
    for (const line of [this.#line, this.next]) line?.poke(now);
  }

  get #groups() {
    return new Set(this.#all.flatMap(({ groups }) => groups));
  }

  /** @param {string} tab @param {Want[]} wants */
  #admit(tab, wants) {
    this.#expected.delete(tab);
    if (tab !== this.#tab && !this.#tabs.has(tab)) {
      this.#tabs.add(tab);
      lock(`${this.#name} ${tab}`, /** @type {AbortController} */ (this.#leads), () => {
        this.#tabs.delete(tab);
        this.#leave(this.#all.filter((member) => member.tab === tab));
      }).catch(() => {});
    }
    let more = false;
    for (const want of wants) {
      if (new Set([...this.#groups, ...want.groups]).size > this.about.max_groups) {
        this.#dismiss({}, [want]);
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

  /** Whether the connection serves all groups of a stream. @param {Want} want */
  #serves({ groups, places }) {
    return (
      this.#line?.opened &&
      !this.next &&
      groups.every((group) => this.#names.has(group)) &&
      [...places].every(([hash, place]) => covers(this.#at.get(hash) ?? "0", place))
    );
  }

  /** @param {{id: string}[]} members */
  #leave(members) {
    for (const { id } of members) this.#members.delete(id);
    setTimeout(() => {
      // Later, as the next page often needs the same groups.
      if (this.#line?.opened && this.#groups.size < this.#names.size) this.#open();
    }, SHRINKING);
  }

  /** Open a connection for all streams of now. */
  #open() {
    if (this.#expected.size || !this.#members.size) return;
    this.next?.close();
    const line = (this.next = new Line(this));
    if (!this.#line?.opened) {
      this.#line?.close();
      this.#line = line;
      this.next = null;
    }
    void line.run();
  }

  /** Inform the members that they are served, and from which positions. */
  #welcome() {
    this.#broadcast({ t: "open", ids: this.#line?.ids, about: this.about, at: this.#at, names: this.#names });
  }

  // --- for the connection ---

  target() {
    const [stream] = this.streams;
    const url = new URL(stream.url);
    const query = url.searchParams;
    const grants = this.#grants;
    const signed = grants.flatMap(({ groups }) => groups);
    const groups = [...this.#groups];
    query.delete("group");
    query.delete("grant");
    // Sorted, so that the server can put streams of the same groups into one cohort.
    for (const group of groups.sort()) if (!signed.includes(group)) query.append("group", group);
    for (const { text } of grants) query.append("grant", text);
    if (groups.length) query.append("label", "1");
    const from = new Map(this.#at);
    include(from, this.#wanted);
    const ids = [...this.#members.keys()];
    return { url, cursor: this.#path ? idOf(from) : stream.cursor, ids, groups };
  }

  get #grants() {
    return fewest(this.#all.flatMap(({ grants }) => grants));
  }

  /** @param {State} state @param {string} reason @param {Line} line */
  turn(state, reason, line) {
    if (line === this.next && this.#line?.opened) return;
    this.#broadcast({ t: "state", state, reason });
  }

  /** @param {Block} block @param {Line} line */
  hear(block, line) {
    let { event, data, group, id, tab } = block;
    const name = event || "message";
    const opens = name === "sse.open";
    if (line !== this.#line && !opens) return;
    const places = this.#path && id ? placesOf(id) : null;
    if (opens) this.#opened(parse(data) ?? {}, places, line);
    else if (places) this.#at = places;
    if (name === RESET) group = parse(data)?.group;
    const hash = this.#names.get(/** @type {string} */ (group));
    if (this.#path) id = places?.get(/** @type {string} */ (hash));
    this.#broadcast({ ...block, t: "event", event: name, group, hash, id, ids: tab && [tab] });
  }

  /** @param {any} data @param {Positions | null} places @param {Line} line */
  #opened(data, places, line) {
    if (line === this.next) {
      this.#line?.close();
      this.#line = line;
      this.next = null;
    }
    this.about = data;
    if (!this.#path) return;
    const { user: whose = this.#user } = data;
    // The page is old or was rendered for another user. The server knows the user of the session.
    if (whose !== this.#user) return this.#dismiss({ whose });
    // Ids that can't be parsed, or a server without labels: the group of an event is unknown.
    if (!places || !data.max_groups) return this.#dismiss({});
    this.#at = places;
    this.#wanted.clear();
    this.#names = new Map([...places.keys()].map((hash, n) => [data.groups[n], hash]));
    this.#welcome();
  }

  /**
   * Remove streams from the connection. With a `reason` they are closed; with `whose` they share the connection of that
   * user's pages; otherwise each gets its own connection.
   * @param {{reason?: string, whose?: string, again?: string[]}} where @param {{id: string}[]} members
   */
  #dismiss(where, members = this.#all) {
    for (const { id } of members) this.#members.delete(id);
    this.#broadcast({ t: "go", ...where, ids: members.map(({ id }) => id) });
  }

  /** @param {string} reason @param {Line} line */
  refused(reason, line) {
    if (line === this.next) {
      // The streams that were added last are refused.
      this.next = null;
      this.#wanted.clear();
      this.#dismiss({}, this.#all.filter(({ id }) => !this.#line?.ids.includes(id)));
      if (!this.#line?.opened) this.#open();
    } else {
      this.#line = null;
      // Streams that left meanwhile may be what was refused.
      this.#dismiss(line.ids.length > 1 ? {} : { reason });
    }
  }

  /** Close the streams that listen to one of the `lost` groups, or all; the others reconnect. @param {string} reason @param {string[]} [lost] */
  lose(reason, lost) {
    this.#dismiss({ reason, again: lost }, this.#all.filter(({ groups }) => !lost || groups.some((group) => lost.includes(group))));
  }

  /** Renew the oldest grant, as it expires first. If that fails, the streams with this grant are closed. */
  async renew() {
    const old = this.#grants.pop()?.text;
    const [stream] = this.streams;
    if (!old) return this.lose("expired");
    const { status, answer, error } = await post(stream.sibling("renew/"), { grant: old }, stream.options);
    const holders = this.#all.filter(({ grants }) => grants.includes(old));
    if (!error) {
      const { grant } = answer;
      for (const { grants } of holders) grants[grants.indexOf(old)] = grant;
      this.#broadcast({ t: "grant", old, grant });
    } else if (!passes(status)) this.#dismiss({ reason: "expired" }, holders);
  }
}

// Also on "offline": a server that needs no network, such as this machine, can be connected again.
when("online offline", () => pools.forEach((pool) => pool.poke(true)));
when("visibilitychange", () => pools.forEach((pool) => pool.poke()));
when("pagehide freeze", () => pools.forEach((pool) => pool.stop()));
when("pageshow resume", () => pools.forEach((pool) => pool.start()));

// --- the page's streams ---

/** A stream of the page; made by `connect()`. */
class Stream {
  id = random();
  /** @type {State} */
  state = "connecting";
  /** The reason of the state; empty without one. */
  reason = "";
  /** @type {Pool | undefined} */
  pool;
  /** @type {Options} */
  options;
  url;
  /** @type {string[]} */
  groups;
  /** @type {string[]} */
  #grants;
  /** @type {Positions} */
  #places;
  /** The last id, if ids are not parsed. */
  #lastId = "";
  /** Its id on a shared connection; empty if it does not share. */
  #path;
  /** @type {Map<string, Set<Listener>>} */
  #listeners = new Map();
  /** The events that wait while the page loads its state again. @type {[string, any, EventDetail][] | null} */
  #queue = null;
  /** "auth" once the session has ended, until a connection opens with the browser's present session. */
  #ended = "";
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
    this.groups = [...new Set([...query.getAll("group"), ...signed.flatMap((grant) => grant?.groups ?? [])])];
    const places = placesOf(this.#lastId);
    this.#places = places ?? new Map();
    const known = [...query.keys()].every((key) => /^gr(oup|ant)$/.test(key));
    const readable = signed.every(Boolean) && (places || !this.#lastId);
    const shares = options.share !== false && known && readable && this.groups.length > 0;
    this.#path = shares && this.url.origin === location.origin ? BETWEEN_TABS + this.url.pathname : "";
    if (this.#path) this.#lastId = "";
    if (options.reset) this.on(RESET, options.reset);
  }

  /** Begin, unless the stream was closed meanwhile. @param {string} [user]  Default: the user of the page. */
  open(user = this.#path ? pageTag().sse : this.id) {
    const name = `${this.#path} ${user}`;
    if (this.state !== "closed") (pools.get(name) ?? new Pool(this.#path, user, name)).add(this);
    return this;
  }

  /** The id to continue from. */
  get cursor() {
    return this.#lastId || idOf(this.#places);
  }

  /** What it needs from a shared connection. @returns {Want} */
  get want() {
    return { id: this.id, groups: this.groups, grants: this.#grants, places: this.#places };
  }

  /** The address of another endpoint beside the stream's. @param {string} name */
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

  /** Close the stream for good. */
  close() {
    this.#turn("closed", "");
  }

  /**
   * Send an event to the server and return the handler's answer. While the network or the server is
   * not available, it is sent again, but handled once; after a minute it fails. Any other answer
   * raises a `RequestError`.
   * @param {string} event @param {unknown} [data] @param {SendOptions} [options]
   */
  async send(event, data = null, { group = this.groups[0], key = random() } = {}) {
    const end = Date.now() + LONGEST_WAIT;
    for (let failures = 0; ; failures++) {
      const message = { group, event, data, connection: this.pool?.about.connection, tab: this.id };
      const {
        status,
        answer,
        error,
        wait = jitter(500, failures),
      } = await post(this.sibling("send/"), message, this.options, key);
      if (!error) return answer;
      // A handler that failed would fail again.
      if (!passes(status) || status === 500 || Date.now() + wait > end) throw error;
      await pause(wait);
    }
  }

  /** Handle a message of the connection. @param {Message} message */
  take(message) {
    const { t, ids, state, reason, old, grant, whose, again } = message;
    const served = !this.#path || this.pool?.served.includes(this.id);
    if (ids && !ids.includes(this.id)) return;
    if (t === "open") this.#begin(message);
    else if (t === "state" && (served || state !== "open")) this.#turn(state, reason);
    else if (t === "grant") this.#grants = this.#grants.map((each) => (each === old ? grant : each));
    else if (t === "go") {
      // Where rights were lost, the browser may have another session of the same user by now: try once with it.
      if (this.#ended || (reason && !again)) return this.#turn("closed", this.#ended || reason);
      this.#ended = reason;
      this.pool?.remove(this);
      if (whose === undefined) this.#path = "";
      this.open(whose);
    } else if (t === "event" && served) this.#receive(message);
  }

  /** A connection has opened: check whether it begins early enough for this stream. @param {Message} message */
  #begin({ names, at }) {
    for (const group of this.groups) {
      const hash = names.get(group);
      const start = at.get(hash);
      const own = this.#places.get(hash);
      if (start && !(own && covers(start, own))) {
        this.#places.set(hash, start);
        if (own) this.#emit(RESET, { group, reason: "unknown" }, { event: RESET, id: "", group });
      }
    }
    if (this.state !== "open") this.#turn("open", "");
  }

  /** @param {Message} message */
  #receive({ event: name, data, group, hash, id, streams = 1, except = "" }) {
    if (group && this.groups.length && !this.groups.includes(group)) return;
    if (hash && id) {
      const own = this.#places.get(hash);
      // A reset to this stream's position is for another stream of the connection.
      if (own && (name === RESET ? id === own : covers(id, own))) return;
      this.#places.set(hash, id);
      id = `1.${hash}-${id}`;
    } else if (id) this.#lastId = id;
    // The events of this page's own requests move its position, but the page does not see them.
    if (data !== undefined && !except.includes(this.id)) {
      this.#emit(name, parse(data), { event: name, id: id ?? "", group, streams: +streams });
    }
  }

  /** @param {string} name @param {any} data @param {EventDetail} detail */
  #emit(name, data, detail) {
    if (name === RESET) void this.#startOver(data, detail);
    if (this.#queue && !name.startsWith("sse.")) this.#queue.push([name, data, detail]);
    else this.#call(name, data, detail);
  }

  /** @param {string} name @param {any} data @param {any} detail */
  #call(name, data, detail) {
    // An event of the server named "state" is not a state; #reload() calls the reset handlers.
    const names = !detail.event ? [name] : name === "state" || name === RESET ? ["*"] : [name, "*"];
    for (const fn of names.flatMap((each) => [...(this.#listeners.get(each) ?? [])])) {
      try {
        fn(data, detail);
      } catch (error) {
        reportError(error); // The other listeners are called all the same.
      }
    }
  }

  /** Earlier events are lost: load the state again, while later events wait. @param {any} data @param {EventDetail} detail */
  async #startOver(data, detail) {
    const lost = this.#lost;
    lost.set(data.group, [data, detail]);
    // What waits of the group came before, so the state that is read now may be newer.
    if (this.#queue) return void (this.#queue = this.#queue.filter(([, , { group }]) => group !== data.group));
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
    const own = [...(this.#listeners.get(RESET) ?? [])].map((fn) => fn(data, detail));
    // The events must not wait for ever for a function that does not end.
    const done = /** @type {unknown[] | undefined} */ (await Promise.race([Promise.all(own), pause(LONGEST_WAIT)]));
    if (!done?.every((result) => result === false)) return;
    await (await import("./reload.js")).reload(this.options.fragment);
  }

  /** @param {State} state @param {string} reason */
  #turn(state, reason) {
    if (this.state === "closed" || (this.state === state && this.reason === reason)) return;
    // Once the stream was open, "connecting" means "reconnecting".
    if (state === "connecting" && this.state !== "connecting") state = "reconnecting";
    if (state === "open") this.#ended = "";
    this.state = state;
    this.reason = reason;
    if (state === "closed") this.pool?.remove(this);
    this.#call("state", state, { reason });
  }
}

/** Open a stream. @param {string | URL} url @param {Options} [options] */
export const connect = (url, options = {}) => new Stream(url, options).open();

/** Resolves after the page's other modules have run and added their listeners. */
const loaded = document.readyState === "complete" || new Promise((done) => when("DOMContentLoaded load", done));

/** `<sse-stream url="…" fragment="#board">`: connected while it is in the page. */
export class StreamElement extends HTMLElement {
  static connect = connect;
  static observedAttributes = ["url"];
  /** @type {Stream | null} */
  stream = null;

  connectedCallback() {
    if (!this.stream) void this.#open();
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
    void this.#open();
  }

  #close() {
    this.stream?.close();
    this.stream = null;
  }

  async #open() {
    const url = this.getAttribute("url");
    if (url === null) return;
    const stream = (this.stream = new Stream(url, { fragment: this.getAttribute("fragment") }));
    const show = () => {
      this.setAttribute("state", stream.state);
      this.setAttribute("reason", stream.reason);
    };
    show();
    stream.on("state", show);
    await loaded;
    stream.open();
  }
}

if (!customElements.get("sse-stream")) customElements.define("sse-stream", StreamElement);
