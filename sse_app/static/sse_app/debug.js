/**
 * Hints for developers in the browser's console. `{% sse_script %}` loads this module only while
 * DEBUG is on. It may use no private part of `sse.js`, which stays small for visitors.
 */

// The class of the streams is not exported: an element makes one, which never opens. Not imported
// from sse.js, which would run twice where static files are renamed.
const element = /** @type {any} */ (document.createElement("sse-stream"));
element.setAttribute("url", "?");
element.connectedCallback();
const { prototype } = element.stream.constructor;
element.stream.close();

const { on, open } = prototype;
/** The names that each stream has listeners for. @type {WeakMap<object, Set<string>>} */
const listened = new WeakMap();
/** @param {object} stream */
const namesOf = (stream) => listened.get(stream) ?? listened.set(stream, new Set()).get(stream);
/** What the console has shown already. @type {Set<string>} */
const shown = new Set();

/** @param {string} name @param {any} fn */
prototype.on = function (name, fn) {
  namesOf(this)?.add(name);
  return on.call(this, name, fn);
};

/** @param {any[]} user */
prototype.open = function (...user) {
  if (!watched.has(this)) watch(this);
  return open.apply(this, user);
};

/** @type {WeakSet<object>} */
const watched = new WeakSet();

/** @param {any} stream */
function watch(stream) {
  watched.add(stream);
  on.call(stream, "*", (/** @type {any} */ _, /** @type {any} */ { event, group = "" }) => {
    const names = namesOf(stream) ?? new Set();
    if (event.startsWith("sse.") || names.has(event) || names.has("*")) return;
    const heard = [...names].filter((name) => !/^(state$|sse\.)/.test(name)).map((name) => `"${name}"`);
    const text = `sse_app: "${event}" arrived${group && ` in "${group}"`}, and nothing listens to it. `
      + `This stream listens to ${heard.join(", ") || "no event"}. Add stream.on("${event}", …).`;
    if (!shown.has(text)) console.info(text);
    shown.add(text);
  });
  on.call(stream, "state", async (/** @type {string} */ state, /** @type {any} */ { reason }) => {
    if (state !== "closed" || !reason.startsWith("refused")) return;
    const abort = new AbortController();
    const response = await fetch(stream.url, { signal: abort.signal, credentials: "include" });
    if (!response.ok) console.error(`sse_app: ${stream.url.pathname} is refused. ${await response.text()}`);
    abort.abort();
  });
}
