/** `{% live_page %}`: an `<sse-live>` beside the body, for the `<meta name="sse-live">` in the head. */

const PART = "sse-live";

/** Follow the head, which scripts such as Turbo replace at a visit. */
function follow() {
  const meta = document.querySelector(`meta[name="${PART}"]`);
  const element = document.querySelector(`html > ${PART}`);
  if (meta?.getAttribute("for") === element?.getAttribute("for")) return;
  element?.remove();
  if (!meta) return;
  const made = document.createElement(PART);
  for (const { name, value } of meta.attributes) made.setAttribute(name, value);
  document.documentElement.append(made);
}

follow();
new MutationObserver(follow).observe(document.head, { childList: true });
