/** The members of a group, kept up to date: `members(stream, "chat.lobby", initial)`. */

/** @typedef {{user: string, name: string, data?: any}} Member */

/**
 * Return the members of `group`, beginning with `initial`, those that the server rendered after `cursor()`.
 * `subscribe(fn)` calls `fn(list, joined, left)` now and after each change, and returns a function that ends this.
 * @param {import("./sse.js").Stream} stream @param {string} group @param {Iterable<Member>} [initial]
 */
export const members = (stream, group, initial = []) => {
  /** @type {Map<string, Member>} */
  const found = new Map([...initial].map((member) => [member.user, member]));
  /** @type {Set<(list: Member[], joined?: Member, left?: Member) => void>} */
  const listeners = new Set();
  const list = () => [...found.values()].sort((a, b) => a.name.localeCompare(b.name));
  /** @param {Member} [joined] @param {Member} [left] */
  const tell = (joined, left) => listeners.forEach((fn) => fn(list(), joined, left));
  /** @param {{group?: string}} detail */
  const isOther = (detail) => detail.group && detail.group !== group;
  /** @param {Member} member @param {any} detail */
  const join = (member, detail) => {
    if (isOther(detail) || found.has(member.user)) return;
    found.set(member.user, member);
    tell(member);
  };
  /** @param {Member} member @param {any} detail */
  const leave = (member, detail) => {
    if (!isOther(detail) && found.delete(member.user)) tell(undefined, member);
  };
  stream.on("presence.join", join).on("presence.leave", leave);
  return {
    get list() {
      return list();
    },
    /** @param {(list: Member[], joined?: Member, left?: Member) => void} fn */
    subscribe(fn) {
      listeners.add(fn);
      fn(list());
      return () => listeners.delete(fn);
    },
    close: () => stream.off("presence.join", join).off("presence.leave", leave),
  };
};
