// What htmx needs besides its attributes to keep a list over a stream that resumes.

// After a 4xx or 5xx the extension opens a new source at the URL of the page, which would repeat
// what has come since: go on from the last id instead.
const positions = new Map();

class Resuming extends EventSource {
  constructor(url) {
    const from = new URL(url, location.href);
    if (positions.has(url)) from.searchParams.set("last_event_id", positions.get(url));
    super(from);
    this.keep = ({ lastEventId }) => lastEventId && positions.set(url, lastEventId);
    this.addEventListener("sse.close", ({ data }) => {
      // The right to listen has ended: coming back would be in vain.
      if (["auth", "expired"].includes(JSON.parse(data).reason)) this.close();
    });
  }

  addEventListener(name, listener, options) {
    super.addEventListener(name, listener, options);
    if (this.keep) super.addEventListener(name, this.keep);
  }
}

htmx.createEventSource = (url) => new Resuming(url);

// A row that comes takes the place of the one with its id: what comes twice is there once.
htmx.onLoad((row) => {
  if (!row.id) return;
  for (const other of document.querySelectorAll(`[id="${CSS.escape(row.id)}"]`)) {
    if (other === row) continue;
    const focused = other.contains(document.activeElement);
    other.remove();
    if (focused) row.querySelector("button")?.focus({ preventScroll: true });
  }
});
