/**
 * The parts of a page that the page loads again: `<sse-live>`.
 *
 * Decisions, and why:
 *
 * - An event says only that something changed. The page then requests its own URL again, so a visitor sees what the
 *   view renders for this visitor, and nothing else.
 * - One request at a time for each part. Events that arrive before the request is sent are covered by it; an event that
 *   arrives later causes another request, because the server may have rendered before that event.
 * - A hidden page waits until it is shown. A page with many viewers waits for a random time, which grows with the
 *   number of streams that the server counted for the event.
 * - The stream is the one of `sse.js`, found by its element: an import would be a second copy of the script where the
 *   static files have hashed names.
 * - The morph merges three versions. What the server rendered before, and renders now in the same way, stays as scripts
 *   and the visitor have made it: an open `<details>`, a class that a script added, a typed value.
 */

import { parse } from "./reload.js";

const PART = "sse-live";
/** In milliseconds; the server process then gets about a hundred requests a second, if each stream is a page. */
const PER_STREAM = 10;
const SECOND = 1000;
/** The longest time that a load may take, and the longest wait after failures. */
const LONGEST_LOAD = 60 * SECOND;
const LONGEST_WAIT = 300 * SECOND;
/** Attributes of Alpine, which may have changed such an element before this script sees it. */
const DIRECTIVE = /^(x-|:|@)/;

const morphing = () => import("./idiomorph.js");

/** @param {Record<string, string>} [headers] */
const load = (headers) =>
  fetch(location.href, { headers, cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(LONGEST_LOAD) });
// --- the morph ---

/** What the server rendered last: an element's attributes, or a text. Null: not known. @type {WeakMap<Node, any>} */
const rendered = new WeakMap();
/** @param {any} node  @returns {any} */
const read = ({ attributes, nodeValue }) =>
  attributes ? Object.fromEntries([...attributes].map(({ name, value }) => [name, value])) : nodeValue;

/** Remember the nodes below `root` as the server rendered them. @param {Node} root */
function remember(root) {
  const walker = document.createTreeWalker(root);
  for (let node = /** @type {any} */ (root); node; node = walker.nextNode()) {
    if (rendered.has(node)) continue;
    const now = read(node);
    const owned = node.attributes && Object.keys(now).some((name) => DIRECTIVE.test(name));
    rendered.set(node, owned ? null : now);
  }
}

/**
 * Let `fresh` differ from `old` only where the server has changed its rendering.
 * @param {any} old @param {any} fresh
 */
function merge(old, fresh) {
  const [own, now] = [read(old), read(fresh)];
  const before = rendered.has(old) && (rendered.get(old) ?? now);
  rendered.set(old, now);
  if (before === now) fresh.nodeValue = own;
  if (!before || !old.attributes) return;
  for (const name in { ...before, ...now, ...own }) {
    // The URL has another cursor and signature at each rendering.
    const signed = name === "url" && /^SSE/.test(old.tagName) && before.for === now.for;
    if (own[name] === now[name] || (before[name] !== now[name] && !signed)) continue;
    if (name in own) fresh.setAttributeNode(old.getAttributeNode(name).cloneNode());
    else fresh.removeAttribute(name);
  }
}

/** Whether the visitor has changed a field or the selection that an option belongs to. @param {any} field */
function edited({ defaultValue, defaultChecked, value, checked, index, parentNode }) {
  if (index === undefined) return value !== defaultValue || checked !== defaultChecked;
  const { options, selectedIndex } = parentNode.closest("select");
  return selectedIndex !== Math.max(0, [...options].findLastIndex((option) => option.defaultSelected));
}

/**
 * Morph the content of `target` into that of `fresh`, and return the elements that were added or got another text.
 * @param {Element} target @param {Element} fresh @param {number} began
 */
async function morph(target, fresh, began) {
  const { Idiomorph } = await morphing();
  const typed = [...target.querySelectorAll("input, textarea, select option")].filter(edited);
  /** @type {Set<HTMLElement>} */
  const changed = new Set();
  /** @param {any} node */
  const change = (node) => node.textContent.trim() && changed.add(node.attributes ? node : node.parentElement);
  Idiomorph.morph(target, [...fresh.childNodes], {
    morphStyle: "innerHTML",
    ignoreActiveValue: true,
    callbacks: {
      /** @param {any} old @param {Node} now */
      beforeNodeMorphed(old, now) {
        // A nested part may have loaded a newer state.
        if (old.began > began || old.matches?.("[data-sse-keep]")) return false;
        merge(old, now);
        if (!old.attributes && old.nodeValue !== now.nodeValue) change(old);
      },
      /** @param {string} name @param {Element} element */
      beforeAttributeUpdated: (name, element) => !(/^(value|checked|selected)$/.test(name) && typed.includes(element)),
      /** @param {Node} node */
      afterNodeAdded(node) {
        remember(node);
        change(node);
      },
      // What Alpine made is not in the answer.
      /** @param {any} node */
      beforeNodeRemoved: (node) =>
        !(
          node._x_refreshXForScope ||
          node.parentElement?.matches("[x-text], [x-html]") ||
          node.matches?.("[data-sse-keep], template[x-if] + *")
        ),
    },
  });
  /** @type {any} */ (window).htmx?.process(target);
  return [...changed].filter((element) => target.contains(element));
}

// --- the parts of the page ---

/** `<sse-live id="…" for="orders" url="…">`: its content is loaded again after each event of its groups. */
class LiveElement extends HTMLElement {
  static observedAttributes = ["url"];
  /** When the last load began. */
  began = -Infinity;
  /** @type {any} */
  #stream = null;
  /** Whether an event came after the last load began. */
  #stale = false;
  /** Whether its URL must be loaded, too. */
  #whole = false;
  #streams = 0;
  #failures = 0;
  #problem = "";
  /** The tag of the last answer, by its URL. @type {Record<string, string | null>} */
  #tags = {};
  #timer = 0;
  #loading = false;

  connectedCallback() {
    if (this.#stream) return;
    void morphing();
    remember(this.#content(this));
    this.#open();
  }

  disconnectedCallback() {
    // An element that is only moved keeps its stream.
    queueMicrotask(() => {
      if (this.isConnected) return;
      this.#close();
      this.#rest();
    });
  }

  attributeChangedCallback() {
    if (!this.#stream) return;
    this.#close();
    this.#open();
  }

  /** Load the part again, as soon as its page is shown. @param {number} [streams]  How many streams got the event. */
  refresh(streams = 0) {
    this.#stale = true;
    this.#streams = streams;
    this.#plan();
  }

  /** The page or the server is back: do not wait any longer. */
  wake() {
    this.#failures = 0;
    this.#rest();
    this.#plan();
  }

  #rest() {
    clearTimeout(this.#timer);
    this.#timer = 0;
  }

  #close() {
    const stream = this.#stream;
    this.#stream = null;
    stream?.close();
  }

  async #open() {
    const url = this.getAttribute("url");
    if (url === null) return;
    /** @type {any} */
    const { connect } = await customElements.whenDefined("sse-stream");
    if (this.#stream || !this.isConnected) return;
    const stream = (this.#stream = connect(url, { reset: () => this.refresh(this.#streams) }));
    for (const name of (this.getAttribute("events") ?? "*").split(" ")) {
      stream.on(name, (/** @type {any} */ _, /** @type {any} */ { event, streams }) => {
        if (!event.startsWith("sse.")) this.refresh(streams);
      });
    }
    // Without a cursor, nothing tells what happened before the stream opened.
    let blind = !stream.cursor;
    stream.on("state", (/** @type {string} */ state) => {
      if (stream !== this.#stream) return;
      this.#show();
      if (state === "open") {
        this.wake();
        if (blind) this.refresh();
        blind = false;
      } else if (state === "closed") {
        // The server may render a new grant for the visitor.
        this.#whole = true;
        this.#failures++;
        this.refresh();
      }
    });
    this.#show();
  }

  #show() {
    const { state = "connecting", reason = "" } = this.#stream ?? {};
    this.setAttribute("state", this.#problem ? "stale" : state);
    this.setAttribute("reason", this.#problem || reason);
  }

  /** The element whose content this part is: the body for `{% live_page %}`. @param {Element} part */
  #content(part) {
    return this.matches("html > *") ? part.ownerDocument.body : part;
  }

  #plan() {
    if (!this.#stale || this.#timer || this.#loading || document.hidden || !this.isConnected) return;
    const every = Number(this.getAttribute("every") ?? 1) * SECOND;
    const backOff = this.#failures && Math.min(LONGEST_WAIT, SECOND * 2 ** this.#failures);
    const spread = Math.random() * (this.#streams * PER_STREAM + backOff);
    this.#timer = setTimeout(() => this.#run(), Math.max(0, this.began + every - performance.now()) + spread);
  }

  async #run() {
    this.#timer = 0;
    this.#stale = false;
    this.began = performance.now();
    this.#loading = true;
    try {
      await this.#refresh();
      this.#problem = "";
      if (this.#stream?.state !== "closed") this.#failures = 0;
    } catch (/** @type {any} */ error) {
      this.#stale = true;
      this.#failures++;
      this.#problem = error.message;
    }
    this.#loading = false;
    this.#show();
    this.#plan();
  }

  async #refresh() {
    const here = location.href;
    /** @type {any} */
    const headers = this.#whole ? {} : { "Sse-Live": this.id, "If-None-Match": this.#tags[here] ?? '""' };
    const response = await load(headers);
    if (response.status === 304) return;
    if (!response.ok) throw new Error(response.status ? `HTTP ${response.status}` : "redirected");
    const page = await parse(response);
    const part = page.getElementById(this.id);
    if (!part) throw new Error("missing");
    const content = this.#content(this);
    const changed = await morph(content, this.#content(part), this.began);
    if (here !== location.href) this.#stale = true;
    if (content === document.body) document.title = page.title;
    this.#tags = { [here]: response.headers.get("ETag") };
    this.#follow(part);
    if (!changed.length) return;
    if (this.matches("[highlight], [announce]")) (await import("./live-notice.js")).notice(this, changed);
    this.dispatchEvent(new CustomEvent(PART, { bubbles: true, detail: changed }));
  }

  /** Follow the groups that the server renders now; it renders the URL for a request of the whole page. @param {Element} part */
  #follow(part) {
    const [groups, url] = ["for", "url"].map((name) => part.getAttribute(name) ?? "");
    this.#whole = !url && groups !== this.getAttribute("for");
    if (this.#whole) this.#stale = true;
    if (!url) return;
    this.setAttribute("for", groups);
    this.setAttribute("url", url);
  }
}

if (!customElements.get(PART)) customElements.define(PART, LiveElement);

document.addEventListener("visibilitychange", () => {
  document.querySelectorAll(PART).forEach((/** @type {any} */ part) => part.wake());
});
