// Completes the names of groups on the form for a broadcast. Without this script the field is plain text.
"use strict";

const WAIT_MS = 120;

function complete(box, number) {
  const input = box.querySelector("input");
  const list = document.createElement("ul");
  let names = [];
  let chosen = -1;
  let timer = 0;
  let asked = 0;

  list.id = `sse-groups-${number}`;
  list.hidden = true;
  list.setAttribute("role", "listbox");
  input.setAttribute("role", "combobox");
  input.setAttribute("aria-autocomplete", "list");
  input.setAttribute("aria-controls", list.id);
  input.setAttribute("aria-expanded", "false");
  box.append(list);

  // The name at the text cursor.
  function part() {
    const at = input.selectionStart;
    const start = at - input.value.slice(0, at).match(/[^\s,;]*$/)[0].length;
    const end = at + input.value.slice(at).match(/^[^\s,;]*/)[0].length;
    return { start, end, text: input.value.slice(start, at) };
  }

  function close() {
    clearTimeout(timer);
    asked += 1;
    list.hidden = true;
    chosen = -1;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  }

  function choose(index) {
    chosen = (index + names.length) % names.length;
    for (const [n, item] of [...list.children].entries()) {
      item.setAttribute("aria-selected", String(n === chosen));
    }
    list.children[chosen].scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", list.children[chosen].id);
  }

  function take(index) {
    const { start, end } = part();
    const rest = input.value.slice(end).replace(/^[\s,;]+/, "");
    const before = `${input.value.slice(0, start)}${names[index]}, `;
    input.value = before + rest;
    input.setSelectionRange(before.length, before.length);
    input.focus();
    close();
  }

  function show() {
    list.replaceChildren(
      ...names.map((name, n) => {
        const item = document.createElement("li");
        item.id = `${list.id}-${n}`;
        item.setAttribute("role", "option");
        item.setAttribute("aria-selected", "false");
        item.textContent = name;
        // On mousedown, since a click comes after the field has lost the focus.
        item.addEventListener("mousedown", (event) => {
          event.preventDefault();
          take(n);
        });
        return item;
      }),
    );
    chosen = -1;
    list.hidden = names.length === 0;
    input.setAttribute("aria-expanded", String(!list.hidden));
    input.removeAttribute("aria-activedescendant");
  }

  async function ask() {
    const mine = (asked += 1);
    const { text, start, end } = part();
    const named = new Set(
      `${input.value.slice(0, start)} ${input.value.slice(end)}`.split(/[\s,;]+/),
    );
    try {
      const query = new URLSearchParams({ q: text });
      const answer = await fetch(`${box.dataset.url}?${query}`, { credentials: "same-origin" });
      if (!answer.ok) return;
      const { groups } = await answer.json();
      if (mine !== asked) return;
      names = groups.filter((name) => !named.has(name) && name !== text);
      show();
    } catch {
      // The names can be typed without suggestions.
    }
  }

  function askSoon() {
    clearTimeout(timer);
    timer = setTimeout(ask, WAIT_MS);
  }

  input.addEventListener("input", askSoon);
  input.addEventListener("focus", askSoon);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" && list.hidden) {
      askSoon();
    } else if (list.hidden) {
      return;
    } else if (event.key === "ArrowDown") {
      choose(chosen + 1);
    } else if (event.key === "ArrowUp") {
      choose(chosen < 0 ? -1 : chosen - 1);
    } else if (event.key === "Escape") {
      close();
    } else if ((event.key === "Enter" || event.key === "Tab") && chosen >= 0) {
      take(chosen);
    } else {
      return;
    }
    event.preventDefault();
  });
}

document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".sse-complete").forEach(complete);
});
