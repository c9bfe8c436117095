/**
 * The parts of a page that the page loads again. `sse.js` loads this module for a stream with a `fragment`.
 */

/**
 * Replace the elements of `selector` in the page by those that the server renders now.
 * @param {string} selector @param {() => Promise<void>} reloadPage
 */
export async function reload(selector, reloadPage) {
  const response = await fetch(location.href, { cache: "no-store" });
  if (response.redirected) return reloadPage(); // For example to a login page, which has no such elements.
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = response.ok && page.querySelector(selector);
  if (!fresh) throw new Error(`no ${selector}`);
  document.querySelector(selector)?.replaceWith(fresh);
}
