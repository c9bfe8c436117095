/** What a visitor notices of a refresh: the options `highlight` and `announce` of `<sse-live>`. */

const LIT = 2000;
const LONGEST_TEXT = 200;

/** What screen readers announce; outside of the body, which other scripts replace. */
const region = document.createElement("div");
region.setAttribute("role", "status");
region.style.cssText = "position:fixed;clip-path:inset(50%)";
document.documentElement.append(region);

/** @param {HTMLElement[]} changed @param {string | null} name */
function highlight(changed, name) {
  if (!name || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const { classList } of changed) {
    classList.add(name);
    setTimeout(() => classList.remove(name), LIT);
  }
}

/** @param {HTMLElement} part @param {HTMLElement[]} changed */
export function notice(part, changed) {
  highlight(changed, part.getAttribute("highlight"));
  const text = part.getAttribute("announce");
  if (text === null) return;
  const said = text || changed.map(({ innerText }) => innerText).join(". ");
  region.textContent = "";
  // Screen readers announce only what changes in a region that they know already.
  setTimeout(() => (region.textContent = said.slice(0, LONGEST_TEXT)), 100);
}
