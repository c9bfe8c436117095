// The live collection beside a model: a server with groups, whose readers see states and events in any mixture.
// `node --test collection.test.mjs`, with the script's folder as COLLECTION.
import assert from "node:assert/strict";
import { test } from "node:test";
import { isDeepStrictEqual } from "node:util";

const { collection } = await import(process.env.COLLECTION);
console.warn = () => {};

/** Random numbers that a seed repeats (mulberry32). */
function randomOf(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** As `Stream` of sse.js: events wait while the functions of a reset run. */
class Stream {
  state = "connecting";
  groups = ["a", "b"];
  listeners = new Map();
  fallbacks = 0;
  queue = null;

  on(event, fn) {
    this.listeners.set(event, (this.listeners.get(event) ?? new Set()).add(fn));
  }
  off(event, fn) {
    this.listeners.get(event)?.delete(fn);
  }
  call(event, data, group) {
    return [...(this.listeners.get(event) ?? [])].map((fn) => fn(data, { event, group }));
  }
  open() {
    this.state = "open";
    this.call("state", "open");
  }
  emit(event, data, group) {
    if (this.queue && !event.startsWith("sse.")) this.queue.push([event, data, group]);
    else this.call(event, data, group);
  }
  async reset(group) {
    this.queue = (this.queue ?? []).filter(([, , of]) => of !== group);
    this.resets = (this.resets ?? 0) + 1;
    const results = await Promise.all(this.call("sse.reset", { group, reason: "trimmed" }, group));
    if (results.every((result) => result === false)) this.fallbacks++;
    if (--this.resets) return;
    const queue = this.queue;
    this.queue = null;
    for (const waiting of queue) this.emit(...waiting);
  }
}

const turn = () => new Promise((done) => setImmediate(done));
const plain = (rows) => [...rows].sort((a, b) => a.pk - b.pk);

/** What a group's readers know: the rows that the group has, and a log from which each reader takes its own position. */
class Server {
  rows = new Map();
  logs = { a: [], b: [] };
  /** How many loads run. */
  loads = 0;

  in(group) {
    return [...this.rows.values()].filter(({ groups }) => groups.includes(group)).map(({ row }) => ({ ...row }));
  }
  all() {
    return [...this.rows.values()].filter(({ groups }) => groups.length).map(({ row }) => ({ ...row }));
  }
  save(pk, groups, status) {
    const before = this.rows.get(pk)?.groups ?? [];
    const row = { pk, status, total: (pk * 7) % 5 };
    const { pk: _, ...fields } = row;
    for (const group of before) if (!groups.includes(group)) this.logs[group].push(["order.deleted", { pk, fields }]);
    for (const group of groups) this.logs[group].push([before.length ? "order.updated" : "order.created", { pk, fields }]);
    if (groups.length) this.rows.set(pk, { row, groups });
    else this.rows.delete(pk);
  }
}

const WAYS = {
  snapshots: () => ({}),
  load: (server, random) => ({
    async load() {
      server.loads++;
      for (let n = 0; n < 3; n++) if (random() < 0.5) await turn();
      const rows = server.all();
      for (let n = 0; n < 3; n++) if (random() < 0.5) await turn();
      server.loads--;
      if (random() < 0.05) throw new Error("on purpose");
      return rows;
    },
  }),
};

/** One reader of both groups, while rows change. */
async function run(seed, way, groups) {
  const random = randomOf(seed);
  const one = (values) => values[Math.floor(random() * values.length)];
  const server = new Server();
  const stream = new Stream();
  stream.groups = groups;
  const ordered = random() < 0.5;
  const options = { ...WAYS[way](server, random), ...(ordered && { order: one(["status", "-total", (a, b) => b.pk - a.pk]) }) };
  const at = { a: 0, b: 0 };
  const change = () => server.save(Math.floor(random() * 6), one([["a"], ["b"], ["a", "b"], []]).filter((group) => groups.includes(group)), one(["new", "paid", null]));
  const state = (group) => {
    // The position first and then the rows: the events in between are in both.
    at[group] = server.logs[group].length;
    if (random() < 0.5) change();
    stream.emit("sse.snapshot", { group, data: server.in(group) });
  };
  const deliver = (group) => {
    const [event, data] = server.logs[group][at[group]++];
    stream.emit(event, structuredClone(data), group);
  };
  for (let n = 0; n < 5; n++) change();
  const orders = collection(stream, "order", options);
  let seen;
  orders.subscribe(({ rows }) => (seen = rows));
  for (const group of groups) at[group] = server.logs[group].length;
  stream.open();
  if (way === "snapshots") groups.forEach(state);
  const resets = [];
  for (let n = 0; n < 60; n++) {
    const group = one(groups);
    const step = random();
    if (step < 0.4) change();
    else if (step < 0.8) at[group] < server.logs[group].length && deliver(group);
    else if (step < 0.87) {
      at[group] = server.logs[group].length; // The events up to here are lost.
      resets.push(stream.reset(group));
      if (way === "snapshots") state(group);
    } else await turn();
  }
  for (const group of groups) while (at[group] < server.logs[group].length) deliver(group);
  await Promise.all(resets);
  // A load that failed is tried again a moment later.
  const rests = () => orders.ready && !server.loads && isDeepStrictEqual(plain(orders.rows), plain(server.all()));
  for (let n = 0; n < 1000 && !rests(); n++) await new Promise((done) => setTimeout(done, 5));
  await turn();
  assert.equal(orders.ready, true);
  assert.deepEqual(plain(orders.rows), plain(server.all()));
  assert.deepEqual(seen ?? orders.rows, orders.rows, "a subscriber has seen the last state");
  assert.equal(stream.fallbacks, 0, "each reset was followed by a state");
  assert.deepEqual([...orders].map(([key, row]) => [key, row.pk]), orders.rows.map(({ pk }) => [pk, pk]));
  if (typeof options.order === "string") {
    const field = options.order.replace("-", "");
    const values = orders.rows.map((row) => row[field] ?? "");
    const sorted = [...values].sort((a, b) => (a > b) - (a < b));
    assert.deepEqual(values, options.order[0] === "-" ? sorted.reverse() : sorted);
  } else if (ordered) assert.deepEqual(orders.rows.map(({ pk }) => pk), plain(orders.rows).map(({ pk }) => pk).reverse());
  orders.close();
}

for (const way of Object.keys(WAYS)) for (const groups of [["a"], ["a", "b"]]) {
  test(`at rest it has the rows of the server, by ${way}, of ${groups}`, async () => {
    const seeds = Array.from({ length: Number(process.env.SEEDS) }, (_, seed) => seed + 1);
    const runs = await Promise.allSettled(seeds.map((seed) => run(seed, way, groups)));
    runs.forEach(({ reason }, index) => {
      if (reason) throw new Error(`seed ${seeds[index]}`, { cause: reason });
    });
  });
}

function begun(options) {
  const stream = new Stream();
  stream.open();
  return [stream, collection(stream, "order", options)];
}

test("an event that comes twice changes nothing, and one of another group or without a key is ignored", () => {
  const [stream, orders] = begun({ rows: [{ pk: 1, status: "new" }], group: "a" });
  for (let n = 0; n < 2; n++) {
    stream.emit("order.created", { pk: 2, fields: { status: "new" } }, "a");
    stream.emit("order.updated", { pk: 1, status: "paid" }, "a");
    stream.emit("order.deleted", { pk: 3 }, "a");
    stream.emit("order.deleted", { pk: 1 }, "b");
    for (const data of [null, "text", 5, {}, [1]]) stream.emit("order.updated", data, "a");
    stream.emit("sse.snapshot", { group: "b", data: [{ pk: 9 }] });
  }
  assert.deepEqual(orders.rows, [{ pk: 1, status: "paid" }, { pk: 2, status: "new" }]);
  assert.deepEqual([orders.size, orders.has(2), orders.get(2).status], [2, true, "new"]);
  assert.deepEqual([...orders.keys()], [1, 2]);
  orders.close();
});

test("rows stay the same array until a change, and a burst is told once", async () => {
  const [stream, orders] = begun({ rows: [] });
  let told = 0;
  const end = orders.subscribe(() => told++);
  orders.subscribe(() => {
    throw new Error("on purpose");
  });
  globalThis.reportError = () => {};
  await turn();
  told = 0;
  const before = orders.rows;
  assert.equal(orders.rows, before);
  for (let pk = 0; pk < 1000; pk++) stream.emit("order.created", { pk }, "a");
  await turn();
  assert.equal(told, 1);
  assert.notEqual(orders.rows, before);
  end();
  stream.emit("order.deleted", { pk: 5 }, "a");
  await turn();
  assert.equal(told, 1);
  assert.equal(orders.size, 999);
});

test("an event that says less than a row is loaded, once for a burst", async () => {
  let loads = 0;
  let finish;
  const load = () => new Promise((done) => (finish = () => done([{ pk: 1, n: ++loads }])));
  const [stream, orders] = begun({ rows: [{ pk: 1, n: 0 }], load });
  for (let n = 0; n < 50; n++) stream.emit("order.updated", n % 2 ? { pk: 1 } : { pk: 1, omitted: ["text"] }, "a");
  finish();
  await turn();
  assert.equal(loads, 1);
  finish(); // The events of the burst came while the first load ran: one more is for all of them.
  await turn();
  assert.equal(loads, 2);
  assert.deepEqual(orders.rows, [{ pk: 1, n: 2 }]);
  orders.close();
});

test("without a state that follows, a reset is left to the page", async () => {
  const [stream, orders] = begun({ rows: [{ pk: 1 }], group: "a" });
  await stream.reset("a");
  await stream.reset("b");
  assert.equal(stream.fallbacks, 2);
  stream.emit("sse.snapshot", { group: "a", data: null });
  assert.equal(orders.size, 0);
  await stream.reset("a");
  assert.equal(stream.fallbacks, 2);
  assert.equal(orders.ready, false);
  stream.emit("sse.snapshot", { group: "a", data: { pk: 4 } });
  assert.deepEqual([orders.ready, ...orders.keys()], [true, 4]);
});

test("after close() nothing changes, and a load that runs is dropped", async () => {
  let finish;
  const [stream, orders] = begun({ load: () => new Promise((done) => (finish = done)) });
  orders.close();
  finish([{ pk: 1 }]);
  stream.emit("order.created", { pk: 2 }, "a");
  await turn();
  assert.equal(orders.size, 0);
  assert.equal([...stream.listeners.values()].every((set) => set.size === 0), true);
});
