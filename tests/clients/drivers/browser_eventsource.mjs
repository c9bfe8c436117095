// A browser's own EventSource; it can't send headers.
export function listen(url, names, see) {
  const source = new EventSource(url);
  for (const name of names) {
    source.addEventListener(name, (event) => see(event.type, event.data, event.lastEventId));
  }
}
