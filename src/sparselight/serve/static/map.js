// The map of features: zoom, pan, colors, lasso to a list. All of it stands in the address.
import { api, featureAddress, on } from "./app.js";
import { get, problem } from "./api.js";
import { $, clear, count, debounced, grade, h, percent, ratio } from "./dom.js";
import { Plot } from "./plot.js";
import { computed, mix, scaleOf, wordsOf } from "./scales.js";
import { readState, writeState } from "./state.js";

const MOST_LISTED = 200;
const AGAIN_MS = 4000;
const MOST_CORNERS = 60; // of a lasso in the address
const canvas = $("#map");
const DEFAULTS = { source: $("#source").value, color: "grade", find: "", view: "0,0,1", lasso: "", mode: "move" };
let state = readState(DEFAULTS);
let points = null;
let plot = null;
let again = 0;
let drawn_on = ""; // the layout on which the lasso was drawn here; one of a link belongs to the final layout

const keep = debounced(() => {
  const round = (value) => Number(value.toFixed(4));
  state.view = [...plot.center, plot.zoom].map(round).join(",");
  state.lasso = plot.lasso.map((corner) => corner.map((value) => Number(value.toPrecision(4))).join(",")).join(";");
  writeState(state, DEFAULTS);
  list();
}, 120);

async function load() {
  clear($("#problem"));
  clearTimeout(again);
  if (state.source !== points?.source) {
    canvas.setAttribute("aria-busy", "true");
    clear($("#picked-count"), h("span", { class: "busy" }, "Laying out"));
  }
  try {
    points = await get(api("/map"), { source: state.source });
  } catch (error) {
    clear($("#problem"), problem(error));
    return;
  } finally {
    canvas.removeAttribute("aria-busy");
  }
  if (drawn_on && drawn_on !== points.layout) Object.assign(state, { lasso: "" });
  points.domain_ratio = points.domain_ratio.map((value) => value ?? Infinity);
  plot = new Plot(canvas, points.x, points.y);
  restore();
  const layout = points.layout === "tsne" ? "t-SNE of decoder directions" : "Principal components of decoder directions";
  const better = points.is_final ? "" : " A better layout is being made; it comes by itself.";
  const left_out = points.n_left_out ? ` ${count(points.n_left_out)} latents that never fired are left out.` : "";
  $("#how").textContent = `${layout}: near dots are similar, far distances mean nothing.${left_out}${better}`;
  if (!points.is_final) again = setTimeout(load, AGAIN_MS);
  paint();
  canvas.dataset.points = points.latent.length;
}

/** The view and the lasso that the address names. */
function restore() {
  const [x, y, zoom] = state.view.split(",").map(Number);
  if ([x, y, zoom].every(Number.isFinite) && zoom > 0) Object.assign(plot, { center: [x, y], zoom });
  plot.lasso = state.lasso ? state.lasso.split(";").map((corner) => corner.split(",").map(Number)).filter((corner) => corner.length === 2 && corner.every(Number.isFinite)) : [];
}

function paint() {
  const scale = scaleOf(state.color, points);
  Object.assign(plot, { ...scale, ink: computed("var(--ink)"), accent: mix("--accent", 100) });
  clear($("#legend"), scale.labels.map((label, index) => h("li", {}, h("span", { class: "key", style: { background: scale.colors[index] } }), label)));
  highlight();
}

function highlight() {
  const words = state.find.trim().toLowerCase();
  plot.marked = words ? points.text.flatMap((text, index) => (text.toLowerCase().includes(words) ? [index] : [])) : null;
  plot.later();
  list();
}

/** The features in the lasso, or in sight; marked ones only where words are given. The best evidence first. */
function list() {
  const marked = plot.marked && new Set(plot.marked);
  const found = plot.chosen().filter((index) => !marked || marked.has(index));
  found.sort((one, other) => points.grade[one].localeCompare(points.grade[other]) || points.latent[one] - points.latent[other]);
  const isLasso = plot.lasso.length > 2;
  $("#picked-title").textContent = isLasso ? "In the lasso" : "In sight";
  $("#unpick").hidden = !isLasso;
  $("#picked-count").textContent = `${count(found.length)} of ${count(points.latent.length)} features${found.length > MOST_LISTED ? `; the first ${MOST_LISTED} are listed` : ""}`;
  clear($("#picked"), found.slice(0, MOST_LISTED).map((index) => h("li", { on: { pointerenter: () => hover(index), pointerleave: () => hover(-1) } }, grade(points.grade[index]),
    h("a", { href: featureAddress(state.source, points.latent[index]) }, points.text[index] || "no explanation found"),
    h("span", { class: "small muted" }, `${points.latent[index]} · ${percent(points.fire_rate[index])} · domain ${ratio(points.domain_ratio[index])}`))));
}

function hover(index, left = 0, top = 0) {
  if (plot.hovered !== index) { plot.hovered = index; plot.later(); }
  const tip = $("#tip");
  tip.hidden = index < 0 || !left;
  if (tip.hidden) return;
  clear(tip, h("b", {}, points.text[index] || "no explanation found"), h("span", {}, `${state.source}/${points.latent[index]} · ${wordsOf(points, index)}`));
  tip.style.left = `${Math.min(left + 14, canvas.clientWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${Math.min(top + 14, canvas.clientHeight - tip.offsetHeight - 4)}px`;
}

function drags() {
  let last = null;
  let moved = 0;
  let isLasso = false;
  const held = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    if (!plot) return;
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, [event.offsetX, event.offsetY]);
    last = [event.offsetX, event.offsetY];
    moved = 0;
    isLasso = held.size === 1 && (state.mode === "lasso" || event.shiftKey);
    if (isLasso) plot.lasso = [plot.toData(...last)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!plot) return;
    const here = [event.offsetX, event.offsetY];
    if (!held.has(event.pointerId)) { hover(plot.nearest(...here), ...here); return; }
    if (held.size === 2) { pinch(held, event.pointerId, here); return; }
    moved += Math.abs(here[0] - last[0]) + Math.abs(here[1] - last[1]);
    if (isLasso) { plot.lasso.push(plot.toData(...here)); plot.later(); } else plot.panBy(here[0] - last[0], here[1] - last[1]);
    held.set(event.pointerId, here);
    last = here;
  });
  const end = (event) => {
    if (!held.delete(event.pointerId)) return;
    if (isLasso && plot.lasso.length < 3) plot.lasso = [];
    if (isLasso) {
      plot.lasso = thinned(plot.lasso);
      drawn_on = points.layout;
    }
    if (moved < 4 && event.type === "pointerup") {
      const index = plot.nearest(event.offsetX, event.offsetY);
      if (index >= 0) location.assign(featureAddress(state.source, points.latent[index]));
    }
    plot.later();
    keep();
  };
  canvas.addEventListener("pointerup", end);
  canvas.addEventListener("pointercancel", end);
  canvas.addEventListener("pointerleave", () => { if (plot) hover(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (!plot) return;
    event.preventDefault();
    plot.zoomBy(Math.exp(-event.deltaY * 0.0016), event.offsetX, event.offsetY);
    keep();
  }, { passive: false });
}

/** Two fingers: zoom by the change of their distance, about their middle. */
function pinch(held, id, here) {
  const [other] = [...held].filter(([key]) => key !== id).map(([, at]) => at);
  const before = Math.hypot(held.get(id)[0] - other[0], held.get(id)[1] - other[1]);
  const after = Math.hypot(here[0] - other[0], here[1] - other[1]);
  held.set(id, here);
  if (before > 0) plot.zoomBy(after / before, (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
}

function thinned(corners) {
  const step = Math.max(1, Math.ceil(corners.length / MOST_CORNERS));
  return corners.filter((_, index) => index % step === 0);
}

function setMode(mode) {
  state.mode = mode;
  $("#move").setAttribute("aria-pressed", mode === "move");
  $("#lasso").setAttribute("aria-pressed", mode === "lasso");
  canvas.classList.toggle("lasso", mode === "lasso");
}

function act(change) {
  if (!plot) return;
  change();
  plot.later();
  keep();
}

function keys(event) {
  const step = 60;
  const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  const changes = { "+": () => plot.zoomBy(1.4), "=": () => plot.zoomBy(1.4), "-": () => plot.zoomBy(1 / 1.4), 0: showAll, Escape: () => { plot.lasso = []; } };
  const change = moves[event.key] ? () => plot.panBy(...moves[event.key]) : changes[event.key];
  if (!change) return;
  event.preventDefault();
  act(change);
}

function showAll() {
  Object.assign(plot, { center: [0, 0], zoom: 1 });
}

function start() {
  $("#source").value = state.source;
  if (![...$("#color").options].some((option) => option.value === state.color)) state.color = "grade";
  $("#color").value = state.color;
  $("#find").value = state.find;
  setMode(state.mode);
  drags();
  canvas.addEventListener("keydown", keys);
  new ResizeObserver(() => plot?.later()).observe(canvas);
  $("#move").addEventListener("click", () => act(() => setMode("move")));
  $("#lasso").addEventListener("click", () => act(() => setMode("lasso")));
  $("#closer").addEventListener("click", () => act(() => plot.zoomBy(1.6)));
  $("#farther").addEventListener("click", () => act(() => plot.zoomBy(1 / 1.6)));
  $("#all").addEventListener("click", () => act(showAll));
  $("#unpick").addEventListener("click", () => act(() => { plot.lasso = []; }));
  $("#color").addEventListener("change", () => act(() => { state.color = $("#color").value; paint(); }));
  $("#find").addEventListener("input", debounced(() => act(() => { state.find = $("#find").value; highlight(); }), 120));
  $("#source").addEventListener("change", () => { Object.assign(state, { source: $("#source").value, lasso: "", view: DEFAULTS.view }); writeState(state, DEFAULTS, true); load(); });
  addEventListener("popstate", () => { state = readState(DEFAULTS); $("#source").value = state.source; load(); });
  document.addEventListener("themechange", () => { if (plot) paint(); });
  on("/", () => $("#find").focus());
  load();
}

start();
