// The state of a page in its address: each state has a link, and going back shows the state before.

/** Values of the query string over `defaults`; numbers and booleans as such. */
export function readState(defaults) {
  const given = new URLSearchParams(location.search);
  return Object.fromEntries(Object.entries(defaults).map(([name, value]) => [name, given.has(name) ? parsed(given.get(name), value) : value]));
}

/** Writes what differs from `defaults` into the address. `push` makes a step that the back button undoes. `hash` stays as it is unless one is given. */
export function writeState(state, defaults, push = false, hash = location.hash) {
  const pairs = Object.entries(state).filter(([name, value]) => value !== defaults[name] && value !== null && value !== undefined);
  const words = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)])).toString();
  const address = `${location.pathname}${words ? `?${words}` : ""}${hash}`;
  if (address === `${location.pathname}${location.search}${location.hash}`) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
}

const waiting = new Set();

/** Calls `run` after the calls have been quiet for `wait_ms`, or when the page is left: what is written late is in the address to which the back button leads. */
export function later(run, wait_ms) {
  let timer = 0;
  const now = () => {
    clearTimeout(timer);
    if (waiting.delete(now)) run();
  };
  return () => {
    clearTimeout(timer);
    waiting.add(now);
    timer = setTimeout(now, wait_ms);
  };
}

addEventListener("beforeunload", () => { for (const now of waiting) now(); });

function parsed(text, like) {
  if (typeof like === "boolean") return text === "true" || text === "1" || text === "on";
  if (typeof like === "number") return Number.isFinite(Number(text)) ? Number(text) : like;
  return text;
}
