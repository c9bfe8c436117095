// The board: a card per order, in the column of its status; events move the cards.

import { attempt, follow, post, read, showTime } from "./live.js";

const board = document.getElementById("board");
const problem = document.getElementById("board-error");
const template = document.getElementById("order-card");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

const cardOf = (pk) => board.querySelector(`[data-pk="${Number(pk)}"]`);
const columnOf = (status) => board.querySelector(`[data-column="${CSS.escape(status)}"] .cards`);

function recount() {
  for (const column of board.querySelectorAll(".column")) {
    column.querySelector(".count").textContent = column.querySelectorAll(".card:not(.leaving)").length;
  }
}

function makeCard(pk) {
  const card = template.content.firstElementChild.cloneNode(true);
  card.dataset.pk = pk;
  card.dataset.testid = `order-${pk}`;
  card.querySelector("[data-field=number]").textContent = `#${pk}`;
  const button = card.querySelector("button");
  button.dataset.testid = `advance-${pk}`;
  button.setAttribute("aria-label", `Next step for order #${pk}`);
  return card;
}

// Plays the way from where the card was to where it is.
function slide(card, before) {
  const after = card.getBoundingClientRect();
  const [x, y] = [before.left - after.left, before.top - after.top];
  card.animate(
    [{ transform: `translate(${x}px, ${y}px)`, zIndex: 1 }, { transform: "none", zIndex: 1 }],
    { duration: 450, easing: "cubic-bezier(.2, .8, .2, 1)" },
  );
}

function highlight(card) {
  card.classList.remove("fresh");
  void card.offsetWidth; // Restarts the animation of a card that is still lit.
  card.classList.add("fresh");
}

function show(order, { quietly = false } = {}) {
  const row = order.fields ?? order;
  const known = cardOf(order.pk);
  if (!known && !(row.status && row.item)) {
    void startOver(); // An event that says less than a card shows.
    return;
  }
  const card = known ?? makeCard(order.pk);
  for (const field of ["customer", "item", "total"]) {
    if (row[field] !== undefined) card.querySelector(`[data-field=${field}]`).textContent = row[field];
  }
  const status = row.status ?? card.dataset.status;
  if (!known || status !== card.dataset.status) {
    const column = columnOf(status);
    if (!column) return;
    const before = known?.getBoundingClientRect();
    const focused = card.contains(document.activeElement);
    card.dataset.status = status;
    column.prepend(card);
    if (focused) card.querySelector("button").focus({ preventScroll: true });
    if (before && !quietly && !calm.matches) slide(card, before);
  }
  if (!quietly) highlight(card);
  recount();
}

function remove(pk) {
  const card = cardOf(pk);
  if (!card) return;
  card.classList.add("leaving");
  delete card.dataset.pk;
  delete card.dataset.testid;
  setTimeout(() => card.remove(), calm.matches ? 0 : 300);
  recount();
}

// After `sse.reset`: events that arrive meanwhile wait for this, and a failure is tried again.
async function startOver() {
  const { orders } = await read(board.dataset.orders);
  const current = new Set(orders.map((order) => String(order.pk)));
  for (const card of board.querySelectorAll(".card[data-pk]")) {
    if (!current.has(card.dataset.pk)) remove(card.dataset.pk);
  }
  for (const order of orders.reverse()) show(order, { quietly: true });
}

board.addEventListener("click", async ({ target }) => {
  const button = target.closest(".advance");
  if (!button) return;
  const { pk } = button.closest(".card").dataset;
  const url = board.dataset.advance.replace("/0/", `/${pk}/`);
  button.setAttribute("aria-busy", "true");
  await attempt(() => post(url), problem);
  button.removeAttribute("aria-busy");
});

const newOrder = document.getElementById("new-order");
newOrder.addEventListener("click", () => attempt(() => post(newOrder.dataset.url), problem));

const clock = document.getElementById("clock");
const stream = follow(
  {
    "clock.tick": ({ time }) => showTime(clock, time),
    "order.created": (order) => show(order),
    "order.updated": (order) => show(order),
    "order.deleted": ({ pk }) => remove(pk),
  },
  { quiet: ["clock.tick"] },
);
stream.on("sse.reset", ({ group }) => (group === "orders" ? startOver() : undefined));
