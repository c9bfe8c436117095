// npm: eventsource
import { EventSource } from "eventsource";

export function listen(url, names, see, headers) {
  const source = new EventSource(url, {
    fetch: (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } }),
  });
  for (const name of names) {
    source.addEventListener(name, (event) => see(event.type, event.data, event.lastEventId));
  }
}
