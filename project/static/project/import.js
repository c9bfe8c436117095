// The import page: a bar that follows the events of a task.

import { attempt, post } from "./live.js";

const form = document.getElementById("import");
const bar = document.getElementById("import-bar");
const text = document.getElementById("import-text");
const said = document.getElementById("import-said");
const button = form.querySelector("button");
const SILENCE_MS = 3000;
const SAYS = { done: "The import is done.", failed: "The import has failed." };

// A screen reader would read every step of a live region: it hears of few.
function say(words) {
  if (said.textContent !== words) said.textContent = words;
}

let silence;

function show({ done, total, text: step, state }) {
  bar.max = total;
  bar.value = done;
  bar.textContent = `${done} of ${total}`;
  form.dataset.state = state;
  text.textContent = SAYS[state] ?? (step || "begun");
  const quarters = Math.floor((done / total) * 4) * 25;
  say(SAYS[state] ?? (quarters ? `${quarters} % imported` : "The import has begun."));
  button.disabled = state === "running";
  // A killed task reports nothing, so another may be started.
  clearTimeout(silence);
  if (state === "running") silence = setTimeout(() => (button.disabled = false), SILENCE_MS);
}

const source = new EventSource(form.dataset.stream);
source.addEventListener("progress", (event) => show(JSON.parse(event.data)));
source.addEventListener("sse.close", (event) => {
  if (["auth", "expired"].includes(JSON.parse(event.data).reason)) source.close();
});

form.addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  attempt(() => post(form.action), document.getElementById("import-error"));
});
