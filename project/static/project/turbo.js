// What Turbo needs besides its elements. It listens to `message` only, so what the stream says
// about itself is for this script.

import * as Turbo from "./vendor/turbo-8.0.23.js";

// The other pages of this site know nothing of Turbo: links are links.
Turbo.config.drive.enabled = false;

const { streamSource } = document.querySelector("turbo-stream-source");
streamSource.addEventListener("sse.reset", () => location.reload());
streamSource.addEventListener("sse.close", ({ data }) => {
  // The right to listen has ended: coming back would be in vain.
  if (["auth", "expired"].includes(JSON.parse(data).reason)) streamSource.close();
});
