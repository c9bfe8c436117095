// The chat: messages, who comes and goes and who types come down the stream; what is said and that
// somebody types goes up in a POST. A command such as /who is answered to this page alone.

import { attempt, follow, read, timeOf } from "./live.js";

const log = document.getElementById("chat-log");
const people = document.getElementById("chat-people");
const form = document.getElementById("chat-form");
const typing = document.getElementById("chat-typing");
const NEAR = 80;
const TYPING_MS = 2500;
/** Who types, by user, and the timer that forgets it. */
const typists = new Map();

const toTheEnd = () => log.scrollTo({ top: log.scrollHeight });

function dress(line) {
  line.classList.toggle("mine", line.dataset.author === log.dataset.me && log.dataset.me !== "");
  const time = line.querySelector("time");
  time.textContent = timeOf(time.dateTime).slice(0, 5);
}

function say({ id, author, text, at }) {
  // The page may have been rendered with a message that also arrives.
  if (log.querySelector(`[data-id="${Number(id)}"]`)) return;
  for (const [user, { name }] of typists) if (name === author) rest(user);
  add({ id, author, text, at });
}

function add({ id, author, text, at }) {
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
  const line = document.createElement("li");
  line.dataset.id = id;
  line.dataset.author = author;
  const by = document.createElement("p");
  by.className = "said-by";
  const name = document.createElement("b");
  name.textContent = author;
  const time = document.createElement("time");
  time.dateTime = at;
  by.append(name, " ", time);
  const said = document.createElement("p");
  said.className = "said";
  said.textContent = text;
  line.append(by, said);
  dress(line);
  log.append(line);
  document.getElementById("chat-empty").hidden = true;
  if (wasAtEnd || line.classList.contains("mine")) toTheEnd();
  return line;
}

function note({ text }) {
  const line = add({ id: 0, author: "only you see this", text, at: new Date().toISOString() });
  line.classList.add("note");
  toTheEnd();
}

// --- who types ---

function showTypists() {
  const names = [...typists.values()].map(({ name }) => name);
  typing.textContent = names.length ? `${names.join(", ")} ${names.length > 1 ? "are" : "is"} typing …` : "";
}

function type({ user, name }) {
  if (name === log.dataset.me) return;
  clearTimeout(typists.get(user)?.timer);
  typists.set(user, { name, timer: setTimeout(rest, 2 * TYPING_MS, user) });
  showTypists();
}

function rest(user) {
  clearTimeout(typists.get(user)?.timer);
  typists.delete(user);
  showTypists();
}

const lineOf = (user) => [...people.children].find((line) => line.dataset.user === String(user));
const count = () => (document.getElementById("people-empty").hidden = people.children.length > 0);

function join({ user, name }) {
  // The page may have been rendered with somebody whose coming also arrives.
  if (lineOf(user)) return;
  const line = document.createElement("li");
  line.dataset.user = user;
  line.textContent = name;
  people.append(line);
  count();
}

function leave({ user }) {
  rest(user);
  lineOf(user)?.remove();
  count();
}

async function startOver() {
  const { messages, members } = await read(log.dataset.state);
  messages.forEach(say);
  people.replaceChildren();
  members.forEach(join);
  count();
}

for (const line of log.children) dress(line);
toTheEnd();
const stream = follow(
  {
    "chat.message": say,
    "chat.note": note,
    "chat.typing": type,
    "presence.join": join,
    "presence.leave": leave,
  },
  { quiet: ["chat.typing"] },
);
stream.on("sse.reset", startOver);

let told = 0;
form?.addEventListener("input", ({ target }) => {
  if (!target.value.trim() || Date.now() - told < TYPING_MS) return;
  told = Date.now();
  // Without a key, as it matters to nobody whether it arrives twice or not at all.
  stream.send("chat.typing", null, { group: form.dataset.group, key: "" }).catch(() => {});
});

/** The text of the message that has no answer yet. */
let sending = "";
form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = document.getElementById("chat-input");
  const text = input.value.trim();
  // The same text again is a double click; another text may be sent before the answer.
  if (!text || text === sending) return;
  const { group, event: name } = form.dataset;
  sending = text;
  const sent = await attempt(
    () => stream.send(name, { text }, { group }),
    document.getElementById("chat-error"),
  );
  if (sending === text) sending = "";
  if (sent && input.value.trim() === text) input.value = "";
  told = 0;
  input.focus();
});
