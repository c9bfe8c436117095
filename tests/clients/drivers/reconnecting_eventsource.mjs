// npm: reconnecting-eventsource, on a browser's EventSource; it can't send headers.
import ReconnectingEventSource from "reconnecting-eventsource";

export function listen(url, names, see) {
  const source = new ReconnectingEventSource(url);
  for (const name of names) {
    source.addEventListener(name, (event) => see(event.type, event.data, event.lastEventId));
  }
}
