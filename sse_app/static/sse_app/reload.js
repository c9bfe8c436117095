/** What a page loads again after a reset: a part of it, or all of it. `sse.js` loads this module then. */

/** In milliseconds. */
const LONGEST_LOAD = 60_000;
/** A page must be so old before it is loaded again. */
const YOUNG = 10_000;

/** @type {any} */
let policy;

/**
 * The document of an answer, of which no script runs. Raises `TypeError` if the page requires Trusted Types and does not
 * permit the policy `sse_app`.
 * @param {Response} response
 */
export async function parse(response) {
  const text = await response.text();
  policy ??= /** @type {any} */ (window).trustedTypes?.createPolicy("sse_app", { createHTML: String });
  return new DOMParser().parseFromString(policy?.createHTML(text) ?? text, "text/html");
}

/**
 * Replace the element of `selector` in the page by the one that the server renders now; load the page again if there is no
 * selector, or if no later attempt would succeed either.
 * @param {string | null} [selector]
 */
export async function reload(selector) {
  if (!selector) return reloadPage();
  const signal = AbortSignal.timeout(LONGEST_LOAD);
  const response = await fetch(location.href, { cache: "no-store", redirect: "manual", signal });
  if (!response.status) return reloadPage(); // A redirect, for example to a login page, which may have such an element.
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  let fresh;
  try {
    fresh = (await parse(response)).querySelector(selector);
  } catch {
    // Trusted Types forbid the policy, or the selector is invalid.
  }
  if (!fresh) return reloadPage();
  document.querySelector(selector)?.replaceWith(fresh);
}

/** Load the page again after a random time; seldom, as the server may send a page that is always too old. */
async function reloadPage() {
  const wait = 1000 * Math.random() + Math.max(0, YOUNG - performance.now());
  await new Promise((done) => setTimeout(done, wait));
  location.reload();
}
