// npm: launchdarkly-eventsource
import launchdarkly from "launchdarkly-eventsource";

export function listen(url, names, see, headers) {
  const source = new launchdarkly.EventSource(url, { headers });
  source.onerror = () => {}; // Without a listener Node throws the error.
  for (const name of names) {
    source.addEventListener(name, (event) => see(event.type, event.data, event.lastEventId));
  }
}
