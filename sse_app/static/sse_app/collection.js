/**
 * A live collection: rows of a model, kept up to date by the events of a stream.
 *
 * - The events of one group are in order, those of several groups are not. So the rows are kept for each group, and a row
 *   that moves to another group stays, whichever group's event comes first.
 * - Each event may come again, as a state may already contain later changes. So an event sets values, and adds nothing up.
 * - While `load` runs, events wait for its rows. Earlier events are part of its rows, so those that still wait are dropped.
 */

/** @typedef {any} Row */
/** @typedef {(a: Row, b: Row) => number} Compare */
/** @typedef {{key?: string, group?: string, order?: string | Compare, rows?: Iterable<Row>, load?: () => unknown}} Options */
/** @typedef {(...args: any[]) => any} Callback */
/** @typedef {{on(event: string, fn: Callback): unknown, off(event: string, fn: Callback): unknown, state: string, groups: string[]}} Stream */

const LONGEST_WAIT = 60_000;

/** @param {number} ms */
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/** Compare by a field, empty values first; by "-field" in reverse. @param {string} order @returns {Compare} */
function by(order) {
  const sign = order[0] === "-" ? -1 : 1;
  const field = order.replace(/^-/, "");
  return ({ [field]: a }, { [field]: b }) =>
    sign * (a == null || b == null ? +(b == null) - +(a == null) : +(a > b) - +(a < b));
}

/** @param {Map<string, Row> | undefined} rows */
const last = (rows) => [...(rows?.values() ?? [])].at(-1);

/** A read-only map of rows by their key; made by `collection()`. */
class Collection {
  #stream;
  #key;
  #load;
  #compare;
  /** Whether the rows are of several groups. */
  #several;
  /** By key and group, the latest last. The group is "" if there is one only, and for `rows` and `load`. @type {Map<unknown, Map<string, Row>>} */
  #held = new Map();
  /** The rows in their order, until the next change. @type {Map<unknown, Row> | null} */
  #map = null;
  /** @type {Row[] | null} */
  #rows = null;
  /** @type {Set<(collection: Collection) => unknown>} */
  #subscribers = new Set();
  #notifies = false;
  /** What waits for the end of `load`. @type {(() => void)[] | null} */
  #queue = null;
  /** @type {Promise<void> | null} */
  #loading = null;
  #again = false;
  /** The groups whose state is not there yet; "" before the first state. */
  #missing = new Set([""]);
  /** The groups whose state the server sends. */
  #stated = new Set();
  /** @type {[string, Callback][]} */
  #listeners;

  /** @param {Stream} stream @param {string} name @param {Options} options */
  constructor(stream, name, { key = "pk", group: only, order, rows, load }) {
    this.#stream = stream;
    this.#key = key;
    this.#load = load;
    this.#several = !only && stream.groups.length > 1;
    this.#compare = typeof order === "string" ? by(order) : order;
    /** @param {string | undefined} group @param {() => void} take */
    const soon = (group = "", take) => {
      if (only && group !== only) return;
      if (this.#queue) this.#queue.push(take);
      else take();
    };
    /** @param {string} kind @returns {[string, Callback]} */
    const listener = (kind) => [`${name}.${kind}`, (data, { group }) => soon(group, () => this.#take(kind, data, group))];
    this.#listeners = [
      ...["created", "updated", "deleted"].map(listener),
      ["sse.snapshot", ({ group, data }) => soon(group, () => this.#state(group, data))],
      ["sse.reset", ({ group }) => !(only && group !== only) && this.#reset(group)],
      ["state", () => this.#begin()],
    ];
    for (const each of this.#listeners) stream.on(...each);
    if (rows) this.#fill(rows);
    this.#begin();
  }

  /** Whether the rows are complete: not before the first state, nor between a reset and the next state. */
  get ready() {
    return !this.#missing.size;
  }

  get size() {
    return this.#held.size;
  }

  /** The rows in their order. The array is the same until a row changes. */
  get rows() {
    return (this.#rows ??= [...this.values()]);
  }

  /** @param {unknown} key */
  get(key) {
    return last(this.#held.get(key));
  }

  /** @param {unknown} key */
  has(key) {
    return this.#held.has(key);
  }

  keys() {
    return this.#inOrder.keys();
  }

  values() {
    return this.#inOrder.values();
  }

  entries() {
    return this.#inOrder.entries();
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  /** @param {(row: Row, key: unknown, map: unknown) => void} fn @param {any} [self] */
  forEach(fn, self) {
    this.#inOrder.forEach(fn, self);
  }

  /** Call `fn(collection)` after changes, once for all of the same moment. Returns a function that ends this. */
  /** @param {(collection: Collection) => unknown} fn */
  subscribe(fn) {
    this.#subscribers.add(fn);
    return () => void this.#subscribers.delete(fn);
  }

  /** Stop following the stream; the rows stay. */
  close() {
    for (const each of this.#listeners) this.#stream.off(...each);
    this.#load = undefined;
    this.#subscribers.clear();
  }

  get #inOrder() {
    if (!this.#map) {
      const compare = this.#compare;
      const rows = [...this.#held].map(([key, rows]) => /** @type {[unknown, Row]} */ ([key, last(rows)]));
      this.#map = new Map(compare ? rows.sort(([, a], [, b]) => compare(a, b)) : rows);
    }
    return this.#map;
  }

  // --- the rows ---

  /** @param {Row} data @param {string} [group] @param {object} [before]  The values that `data` leaves out. */
  #put(data, group = "", before) {
    const key = data?.[this.#key];
    if (key === undefined) return;
    const rows = this.#held.get(key) ?? new Map();
    if (!this.#several) group = "";
    rows.delete(group);
    this.#held.set(key, rows.set(group, { ...before, ...data }));
  }

  /** @param {unknown} key @param {string} group */
  #drop(key, group) {
    const rows = this.#held.get(key);
    rows?.delete(group);
    rows?.delete("");
    if (!rows?.size) this.#held.delete(key);
  }

  /** @param {string} kind @param {any} data @param {string} group */
  #take(kind, data, group) {
    const { [this.#key]: key, fields, omitted } = data ?? {};
    if (key === undefined) return;
    const deleted = kind === "deleted";
    // Of a loaded row nobody knows which groups still have it.
    const unknown = deleted ? this.#several : !fields && (omitted || Object.keys(data).length < 2);
    if (this.#load && unknown) return void (this.#loading ?? this.#reload());
    if (deleted) this.#drop(key, group);
    else {
      const { omitted: _, ...before } = (kind === "updated" && this.get(key)) || {};
      this.#put(fields ? { [this.#key]: key, ...fields } : data, group, before);
    }
    this.#changed();
  }

  /** @param {string} group @param {any} data  A list of rows, one row, or null. */
  #state(group, data) {
    this.#stated.add(group);
    this.#missing.delete(group);
    this.#missing.delete("");
    for (const key of [...this.keys()]) this.#drop(key, group);
    for (const row of [data].flat()) this.#put(row, group);
    this.#changed();
  }

  /** @param {any} rows */
  #fill(rows) {
    this.#held.clear();
    for (const row of rows) this.#put(row);
    this.#missing.clear();
    this.#changed();
  }

  #changed() {
    this.#map = this.#rows = null;
    if (this.#notifies) return;
    this.#notifies = true;
    queueMicrotask(() => {
      this.#notifies = false;
      for (const fn of this.#subscribers) {
        try {
          fn(this);
        } catch (error) {
          reportError(error); // The other subscribers are called all the same.
        }
      }
    });
  }

  // --- load ---

  #begin() {
    if (this.#load && !this.ready && this.#stream.state === "open") void (this.#loading ?? this.#reload());
  }

  /** Returns `false` if no state follows: the script then loads the fragment or the page. @param {string} group */
  #reset(group) {
    if (!this.#load && !this.#stated.has(group)) return false;
    this.#missing.add(group);
    this.#changed();
    return this.#load && this.#reload();
  }

  /** Load all rows: after a load that runs already, as its rows may be too old. */
  #reload() {
    this.#again = true;
    return (this.#loading ??= this.#run());
  }

  async #run() {
    for (let failures = 0; this.#again && this.#load; ) {
      this.#again = false;
      this.#queue = [];
      try {
        const late = pause(LONGEST_WAIT).then(() => Promise.reject(new Error("load() takes too long")));
        const rows = await Promise.race([this.#load(), late]);
        if (!this.#again && this.#load) this.#fill(rows);
      } catch (error) {
        console.warn(error);
        this.#again = true;
        await pause(Math.random() * Math.min(LONGEST_WAIT, 1000 * 2 ** failures++));
      }
    }
    const queue = this.#queue;
    this.#queue = this.#loading = null;
    queue?.forEach((take) => take());
  }
}

/** Follow the events `<name>.created`, `.updated` and `.deleted`. @param {Stream} stream @param {string} name @param {Options} [options] */
export const collection = (stream, name, options = {}) => new Collection(stream, name, options);
