// On every page: light and dark, the list of keys, and the keys themselves. Pages say what j, k and / mean there by `keys.on`.
import { $ } from "./dom.js";

const listeners = new Map();
const GO = { o: "", f: "/features", m: "/map", t: "/try", c: "/compare", l: "/log" };
const KEPT = "sparselight-keys";
let isGoing = false;
let areKeysOn = kept(KEPT) !== "off";

/** What a key does on this page; a later one takes the place of an earlier one. */
export function on(key, action) {
  listeners.set(key, action);
}

export const run = document.body.dataset.run ?? "";
export const address = (rest = "") => `/runs/${encodeURIComponent(run)}${rest}`;
export const api = (rest) => `/api/runs/${encodeURIComponent(run)}${rest}`;
export const featureAddress = (source, latent) => address(`/features/${encodeURIComponent(source)}/${latent}`);

function kept(name) {
  try { return localStorage.getItem(name); } catch { return null; } // storage may be closed
}

function keep(name, value) {
  try { localStorage.setItem(name, value); } catch { /* not kept: it holds for this page */ }
}

/** `base/12` as [source, latent]. */
export function featureOf(key) {
  const at = key.lastIndexOf("/");
  return [key.slice(0, at), Number(key.slice(at + 1))];
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function turnTheme() {
  const next = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  keep("sparselight-theme", next);
  document.dispatchEvent(new Event("themechange"));
}

function showKeys() {
  const dialog = $("#keys");
  if (dialog.open) dialog.close();
  else dialog.showModal();
}

function pressed(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!areKeysOn && event.key.length === 1) return;
  const isTyping = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (isTyping || ($("#keys").open && event.key !== "?")) return;
  if (isGoing) {
    isGoing = false;
    if (run && event.key in GO) location.assign(address(GO[event.key]));
    return;
  }
  if (event.key === "g") {
    isGoing = true;
    setTimeout(() => { isGoing = false; }, 1500);
    return;
  }
  const action = listeners.get(event.key);
  if (!action) return;
  event.preventDefault();
  action(event);
}

on("?", showKeys);
on("d", turnTheme);
if (run) on("/", () => location.assign(address("/features?focus=text")));
$("#theme").addEventListener("click", turnTheme);
$("#help").addEventListener("click", showKeys);
$("#keys-on").checked = areKeysOn;
$("#keys-on").addEventListener("change", (event) => {
  areKeysOn = event.target.checked;
  keep(KEPT, areKeysOn ? "on" : "off");
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("themechange")));
document.addEventListener("keydown", pressed);
$("main").dataset.ready = "true";
