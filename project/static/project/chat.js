// The chat: messages, and who comes and goes, come down the stream; what is typed goes up in a POST.

import { attempt, follow, read, timeOf } from "./live.js";

const log = document.getElementById("chat-log");
const people = document.getElementById("chat-people");
const form = document.getElementById("chat-form");
const NEAR = 80;

const toTheEnd = () => log.scrollTo({ top: log.scrollHeight });

function dress(line) {
  line.classList.toggle("mine", line.dataset.author === log.dataset.me && log.dataset.me !== "");
  const time = line.querySelector("time");
  time.textContent = timeOf(time.dateTime).slice(0, 5);
}

function say({ id, author, text, at }) {
  // The page may have been rendered with a message that also arrives.
  if (log.querySelector(`[data-id="${Number(id)}"]`)) return;
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
const stream = follow({ "chat.message": say, "presence.join": join, "presence.leave": leave });
stream.on("sse.reset", startOver);

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = document.getElementById("chat-input");
  const text = input.value.trim();
  if (!text) return;
  const { group, event: name } = form.dataset;
  const button = form.querySelector("button");
  button.disabled = true;
  const sent = await attempt(
    () => stream.send(name, { text }, { group }),
    document.getElementById("chat-error"),
  );
  button.disabled = false;
  if (sent && input.value.trim() === text) input.value = "";
  input.focus();
});
