// The list of features: filters in the address, rows from the API, order by the column heads, j and k.
import { api, featureAddress, on } from "./app.js";
import { get, isStale, problem } from "./api.js";
import { $, $$, clear, count, debounced, grade, h, interval, number, percent, ratio, source } from "./dom.js";
import { later, readState, writeState } from "./state.js";
import { VirtualList } from "./virtual.js";

const DEFAULTS = {
  text: "", source: "", grade: "", label: "", min_fire_rate: "", max_fire_rate: "", supported: false, domain_only: false, sort: "grade", descending: "", offset: 0,
};
const form = $("#filters");
const list = $("#list");
let state = readState(DEFAULTS);
let n_all = 0;

const rows = new VirtualList(list, {
  fetchRows: (offset, limit, signal) => get(api("/features"), { ...query(), offset, limit }, signal),
  makeRow, onChange: remember, onError: (error) => { if (!isStale(error)) clear($("#problem"), problem(error)); },
});

function query() {
  const { offset: _, ...filters } = state;
  return filters;
}

function strip(row) {
  if (row.f1 === null) return null;
  const at = (value) => `${100 * Math.min(1, Math.max(0, value ?? 0))}%`;
  const [low, high] = [row.f1_low ?? row.f1, row.f1_high ?? row.f1];
  return h("span", { class: "f1", "aria-hidden": "true" },
    h("span", { class: "f1-control", style: { width: at(row.control_f1_high) } }),
    h("span", { class: "f1-span", style: { left: at(low), width: at(high - low) } }), h("span", { class: "f1-mark", style: { left: at(row.f1) } }));
}

function makeRow(row, index) {
  const cell = (css, ...children) => h("div", { role: "cell", class: css }, ...children);
  if (!row) return h("div", { role: "row", class: "frow", "aria-rowindex": index + 2 }, cell("c-name muted", "…"));
  const f1 = row.f1 === null ? [h("span", { class: "muted" }, "–")]
    : [h("span", {}, number(row.f1), " ", h("small", { class: "muted" }, interval(row.f1_low, row.f1_high))), strip(row),
      h("span", { class: "visually-hidden" }, `control ${number(row.control_f1_high)}`)];
  return h("div", { role: "row", class: "frow", "aria-rowindex": index + 2 },
    cell("c-grade", grade(row.grade)),
    cell("c-name", h("a", { href: featureAddress(row.source, row.latent) }, row.text || "no explanation found"),
      h("span", { class: "sub" }, row.peak_tokens.slice(0, 6).map((token) => h("span", { class: "chip" }, token)))),
    cell("c-f1", ...f1), cell("c-number", percent(row.fire_rate)), cell("c-number c-domain", percent(row.domain_fire_rate)),
    cell("c-number c-ratio", ratio(row.domain_ratio)), cell("c-id", source(row.source), ` ${row.latent}`));
}

const keepOffset = later(() => writeState(state, DEFAULTS), 150);

function remember({ first, total }) {
  state.offset = first;
  keepOffset();
  const found = `${count(total)} of ${count(n_all)} features`;
  if ($("#found").textContent !== found) $("#found").textContent = found; // said aloud only when it changes
  $("#table").setAttribute("aria-rowcount", total + 1);
  $("#nothing").hidden = total > 0;
}

/** Shows what `state` asks for. */
async function show(first = 0) {
  clear($("#problem"));
  rows.chosen = -1;
  $("#clear").hidden = Object.entries(query()).every(([name, value]) => value === DEFAULTS[name] || name === "sort" || name === "descending");
  markOrder();
  sessionStorage.setItem("list", `${location.pathname}${location.search}`);
  await rows.reset(first);
}

function fillForm() {
  for (const field of form.elements) {
    if (!(field.name in state)) continue;
    if (field.type === "checkbox") field.checked = state[field.name];
    else field.value = state[field.name];
  }
}

function readForm() {
  const before = state.sort;
  const given = Object.fromEntries([...form.elements].filter((field) => field.name in DEFAULTS)
    .map((field) => [field.name, field.type === "checkbox" ? field.checked : field.value]));
  state = { ...state, ...given, offset: 0 };
  if (state.sort !== before) state.descending = "";
}

function changed(push) {
  readForm();
  writeState(state, DEFAULTS, push);
  show();
}

function markOrder() {
  for (const head of $$("[data-sort]")) {
    const key = head.dataset.sort;
    if (!key) continue;
    const isOwn = key === state.sort;
    head.setAttribute("aria-sort", isOwn ? (isDescending() ? "descending" : "ascending") : "none");
    const arrow = isOwn ? (isDescending() ? " ↓" : " ↑") : "";
    clear(head, h("button", { type: "button", class: "link", on: { click: () => order(key) } }, `${head.dataset.title}${arrow}`));
  }
}

const isBestDescending = (key) => !["grade", "latent"].includes(key);
const isDescending = () => (state.descending === "" ? isBestDescending(state.sort) : state.descending === "true");

/** Orders by a column, the best first; by the same column again, the other way round. */
function order(key) {
  readForm(); // what was typed just now is not taken up yet
  const isTurned = key === state.sort && isDescending() === isBestDescending(key);
  state = { ...state, sort: key, descending: isTurned ? String(!isBestDescending(key)) : "", offset: 0 };
  fillForm();
  writeState(state, DEFAULTS, true);
  show();
  $(`[data-sort="${key}"] button`)?.focus();
}

function start() {
  n_all = Number($("#found").dataset.all);
  for (const head of $$("[data-sort]")) head.dataset.title = head.textContent.trim();
  const sorts = [...$("#sort").options].map((option) => option.value);
  for (const head of $$("[data-sort]")) if (!sorts.includes(head.dataset.sort)) head.removeAttribute("data-sort");
  if (matchMedia("(max-width: 860px)").matches) $(".filters").open = $$(".filters [name]").some((field) => (field.type === "checkbox" ? field.checked : field.value !== (DEFAULTS[field.name] ?? "")));
  const typed = debounced(() => changed(false), 120);
  form.addEventListener("submit", (event) => { event.preventDefault(); changed(true); });
  form.addEventListener("input", (event) => (["text", "search"].includes(event.target.type) ? typed() : changed(true)));
  $("#clear").addEventListener("click", () => { state = { ...DEFAULTS, sort: state.sort, descending: state.descending }; fillForm(); changed(true); });
  addEventListener("popstate", () => { state = readState(DEFAULTS); fillForm(); show(state.offset); });
  on("/", () => { $("#text").focus(); $("#text").select(); });
  on("j", () => rows.choose(rows.chosen + 1));
  on("k", () => rows.choose(rows.chosen < 0 ? 0 : rows.chosen - 1));
  on("Enter", open);
  $("#text").addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") { event.preventDefault(); list.focus(); rows.choose(0); }
    if (event.key === "Escape") list.focus();
  });
  list.addEventListener("keydown", arrows);
  if (new URLSearchParams(location.search).get("focus") === "text") { writeState(state, DEFAULTS); $("#text").focus(); }
  fillForm();
  show(state.offset);
}

function arrows(event) {
  const step = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
  if (step === undefined || event.target !== list) return;
  event.preventDefault();
  rows.choose(rows.chosen + step);
}

function open() {
  if (document.activeElement && !["BODY", "DIV", "MAIN"].includes(document.activeElement.tagName)) {
    document.activeElement.click();
    return;
  }
  const row = rows.row(rows.chosen);
  if (row) location.assign(featureAddress(row.source, row.latent));
}

start();
