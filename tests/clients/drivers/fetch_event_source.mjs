// npm: @microsoft/fetch-event-source; it hands over every event, whatever its name.
import { fetchEventSource } from "@microsoft/fetch-event-source";

class Refused extends Error {}

export async function listen(url, names, see, headers) {
  await fetchEventSource(url, {
    headers,
    openWhenHidden: true, // Else it leaves the stream whenever the tab is hidden.
    onopen: (response) => {
      if (!response.ok) throw new Refused(response.status);
    },
    onmessage: ({ event, data, id }) => see(event || "message", data, id),
    onclose: () => {
      throw new Error("come back"); // Else it takes the end of the response for the end.
    },
    onerror: (error) => {
      if (error instanceof Refused) throw error;
    },
  });
}
