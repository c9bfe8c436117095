// npm: eventsource-client; it hands over every event, whatever its name.
import { createEventSource } from "eventsource-client";

export function listen(url, names, see, headers) {
  createEventSource({
    url,
    headers,
    onMessage: ({ event, data, id }) => see(event ?? "message", data, id),
  });
}
