/**
 * The header that names the page's streams, so that the server can leave them out of what a request publishes.
 *
 * The streams are those of the page's elements: an import of `sse.js` would be a second copy of it where the static files
 * have hashed names.
 */

/** For requests of the page: `fetch(url, { headers: headers() })`; without elements, `headers(stream)`. @param {any[]} streams */
export function headers(...streams) {
  const elements = /** @type {any[]} */ ([...document.querySelectorAll("sse-stream")]);
  const names = [...streams, ...elements.map(({ stream }) => stream)]
    .filter((stream) => stream?.pool?.about.connection)
    .map(({ id, pool }) => `${pool.about.connection};tab=${id}`);
  return { "Sse-Connection": names.join(", ") };
}
