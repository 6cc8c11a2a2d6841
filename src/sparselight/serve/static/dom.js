// Elements and numbers. Text always goes in as text: no function here parses markup, except `rendered`, which takes what the server's renderers escaped.

/** An element. `props`: attributes; `on` holds listeners; null and false are left out. Children: nodes or text. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "style") Object.assign(element.style, value);
    else if (name.startsWith("aria-") && typeof value === "boolean") element.setAttribute(name, String(value));
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Markup of `interpret.renderers`, escaped on the server, in an element. */
export function rendered(tag, props, html) {
  const element = h(tag, props);
  element.innerHTML = html;
  return element;
}

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

export function clear(element, ...children) {
  element.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const DASH = "–";
const MINUS = "−";
const SUPERSCRIPT = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function decimals(value, digits) {
  if (value === 0) return 0;
  return Math.min(20, Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(Number(value.toExponential(digits - 1)))))));
}

export function fixed(value, places) {
  const text = value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  return Number(value.toFixed(places)) === 0 ? text.replace("-", "") : text.replace("-", MINUS);
}

/** Three significant digits, as report/numbers.py writes them. */
export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  if (value !== 0 && Math.abs(value) < 1e-4) {
    const exponent = Math.floor(Math.log10(Math.abs(value)));
    const power = [...String(exponent)].map((char) => SUPERSCRIPT[char]).join("");
    return `${fixed(value / 10 ** exponent, digits - 2)} × 10${power}`;
  }
  return fixed(value, decimals(value, digits));
}

export function percent(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return DASH;
  if (value !== 0 && Math.abs(value) < 1e-5) return "< 0.001 %";
  return `${fixed(100 * value, decimals(100 * value, digits - (Math.abs(value) < 0.01 ? 1 : 0)))} %`;
}

export const count = (value) => (value === null || value === undefined ? DASH : Math.round(value).toLocaleString("en-US"));
export const ratio = (value) => (value === null || value === undefined ? DASH : value >= 1000 ? "over 1000×" : `${number(value, 2)}×`);
export const interval = (low, high) => (low === null || low === undefined || high === null || high === undefined ? "" : `[${fixed(low, 2)}, ${fixed(high, 2)}]`);

/** A token with its spaces as open boxes; line breaks and other control characters as marks. */
export function tokenText(token, most = 60) {
  const marks = { "\n": "↵", "\r": "␍", "\t": "⇥", " ": "␣" };
  const shown = [...token].slice(0, most).map((char) => marks[char] ?? (/[\p{Cc}\p{Cf}\p{Cs}]/u.test(char) ? "�" : char)).join("");
  return (token.length > most ? `${shown}…` : shown) || "(empty)";
}

export const grade = (letter) => h("span", { class: `grade grade-${letter}`, title: `grade ${letter}` }, letter);
export const source = (name) => h("span", { class: `source ${name === "residual" ? "residual" : "base"}` }, name);

/** Calls `run` after the calls have been quiet for `wait_ms`. */
export function debounced(run, wait_ms) {
  let timer = 0;
  return (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...values), wait_ms);
  };
}
