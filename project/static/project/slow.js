// A reader that takes its bytes slowly for a while. TCP does the rest: the browser stops reading,
// its buffers and the server's fill, and the server lets this stream lag.

import { parser } from "../sse_app/sse.js";
import { read } from "./live.js";
import { Tally } from "./panes.js";

const SLOW_MS = 4000;
const SIP_MS = 50;
const SIP_BYTES = 16 * 1024;
const ASK_MS = 400;

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Open the stream, call `publish()`, and read until the whole run has come; resolves with its tally.
 * `show({received, of, lagged, behind, state})` is called as it goes.
 */
export async function readSlowly({ url, serverUrl, publish, show }) {
  const reading = new AbortController();
  const progress = { tally: null, state: "reading", lagged: false };
  const tell = () => show(progress);
  const watch = setInterval(() => void ask(serverUrl, progress, tell), ASK_MS);
  try {
    let lastId = "";
    let hurry = Infinity;
    while (!progress.tally?.ended) {
      const headers = { Accept: "text/event-stream", ...(lastId && { "Last-Event-ID": lastId }) };
      const response = await fetch(url, { headers, cache: "no-store", signal: reading.signal });
      if (!response.ok) throw new Error(`The server said ${response.status}.`);
      const feed = parser(({ event, data, id }) => {
        lastId = id || lastId;
        if (event === "sse.open" && hurry === Infinity) {
          hurry = performance.now() + SLOW_MS;
          publish().catch((error) => reading.abort(error));
        }
        if (event !== "showcase.number") return;
        const number = JSON.parse(data);
        progress.tally ??= new Tally(number);
        progress.tally.take(number.n);
      });
      await sip(response.body, feed, () => progress.tally?.ended, () => performance.now() < hurry, tell);
    }
    progress.state = "caught up";
    tell();
    return progress.tally;
  } finally {
    clearInterval(watch);
    reading.abort();
  }
}

async function sip(body, feed, ended, slow, tell) {
  // By its own buffer: a plain read hands over whatever has come, megabytes at once.
  const reader = body.getReader({ mode: "byob" });
  let buffer = new ArrayBuffer(SIP_BYTES);
  const decoder = new TextDecoder();
  while (!ended()) {
    const { done, value } = await reader.read(new Uint8Array(buffer));
    if (done) return;
    feed(decoder.decode(value, { stream: true }));
    buffer = value.buffer;
    tell();
    if (slow()) await pause(SIP_MS);
  }
}

// What the server says of this stream, and not what is to be expected.
async function ask(url, progress, tell) {
  const seen = await read(url).catch(() => null);
  if (!seen || progress.state === "caught up") return;
  progress.state = seen.lagging ? "lagging" : "reading";
  progress.lagged ||= seen.lagging;
  tell();
}
