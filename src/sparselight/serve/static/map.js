// The map of features: zoom, pan, colors, lasso to a list. All of it stands in the address.
import { api, featureAddress, on } from "./app.js";
import { get, isStale, problem } from "./api.js";
import { $, clear, count, grade, h, percent, ratio } from "./dom.js";
import { fromText, thinned, toText } from "./lasso.js";
import { Plot } from "./plot.js";
import { computed, mix, scaleOf, wordsOf } from "./scales.js";
import { later, readState, writeState } from "./state.js";

const MOST_LISTED = 200;
const AGAIN_MS = 4000;
const CLICK_PX = 4; // a drag that is shorter is a click
const LAYOUTS = { tsne: "t-SNE of decoder directions", pca: "Principal components of decoder directions" };
const canvas = $("#map");
// `layout` is the one on which view and lasso were chosen: they mean nothing on another.
const DEFAULTS = { source: $("#source").value, color: "grade", find: "", view: "0,0,1", lasso: "", layout: "tsne", mode: "move" };
const held = new Map(); // pointers that are down, and where
let state = readState(DEFAULTS);
let points = null;
let plot = null;
let better = null; // the final layout, while a lasso or a drag stands on the first one
let stop = null;
let again = 0;
let listed = ""; // the rows of the list, so that they are made anew only where they change: a link that is made anew while it is clicked is not followed

/** Whether the map of the chosen SAE is shown; while it is laid out, that of the one before may still be. */
const isShown = () => points?.source === state.source;
const hasLasso = () => plot.lasso.length > 2;

/** Writes what is shown into the address, and lists it. */
function keep() {
  if (!isShown()) return;
  plot.settle();
  const [view, lasso] = [[...plot.center, plot.zoom].join(","), toText(plot.lasso)];
  const isOwn = view !== DEFAULTS.view || lasso !== ""; // else what the address names may be that of a layout that is still being made
  const layout = isOwn ? points.layout : DEFAULTS.layout;
  const isTaken = isOwn && state.layout !== layout; // the hand has taken over from the link
  if (isOwn || state.layout === points.layout) Object.assign(state, { view, lasso, layout });
  if (isTaken) tell();
  writeState(state, DEFAULTS);
  if (better && !held.size && !hasLasso()) show(better);
  else list();
}

const keepLater = later(keep, 120);

async function load() {
  stop?.abort();
  stop = new AbortController();
  clearTimeout(again);
  better = null;
  if (!isShown()) {
    canvas.setAttribute("aria-busy", "true");
    clear($("#picked-count"), h("span", { class: "busy" }, "Laying out"));
  }
  let found;
  try {
    found = await get(api("/map"), { source: state.source }, stop.signal);
  } catch (error) {
    if (isStale(error)) return;
    canvas.removeAttribute("aria-busy");
    clear($("#problem"), problem(error));
    if (isShown()) again = setTimeout(load, AGAIN_MS); // the first layout stays, and the server may come back
    else clear($("#picked-count"));
    return;
  }
  clear($("#problem"));
  found.domain_ratio = found.domain_ratio.map((value) => value ?? Infinity);
  if (isShown() && !found.is_final) again = setTimeout(load, AGAIN_MS);
  else if (isShown() && (held.size || hasLasso())) {
    better = found;
    tell();
  } else show(found);
}

/** Shows a layout, with the view and the lasso of the address where they belong to it. */
function show(found) {
  [points, better, listed] = [found, null, ""];
  stop?.abort(); // of another SAE, from which the back button came
  canvas.removeAttribute("aria-busy");
  clearTimeout(again);
  if (!points.is_final) again = setTimeout(load, AGAIN_MS);
  plot = new Plot(canvas, points.x, points.y);
  const isOther = state.layout !== points.layout;
  const isLost = isOther && points.is_final && state.lasso !== "";
  if (isOther && points.is_final) {
    Object.assign(state, { view: DEFAULTS.view, lasso: "", layout: DEFAULTS.layout });
    writeState(state, DEFAULTS);
  }
  if (!isOther) restore();
  tell(isLost);
  paint();
  canvas.dataset.points = points.latent.length;
}

/** The view and the lasso that the address names. */
function restore() {
  const [x, y, zoom] = state.view.split(",").map(Number);
  if ([x, y, zoom].every(Number.isFinite) && zoom > 0) plot.look(x, y, zoom);
  plot.lasso = fromText(state.lasso);
}

/** How the map was made, and what becomes of it. */
function tell(isLost = false) {
  const words = [`${LAYOUTS[points.layout]}: near dots are similar, far distances mean nothing.`];
  if (points.n_left_out) words.push(`${count(points.n_left_out)} latents that never fired are left out.`);
  if (better) words.push("A better layout is ready; it comes when the lasso is cleared.");
  else if (!points.is_final) words.push(`A better layout is being made; it comes by itself${state.lasso && !hasLasso() ? ", with the lasso of this link" : ""}.`);
  if (isLost) words.push("The lasso of this link was drawn on the first layout, which is gone.");
  $("#how").textContent = words.join(" ");
}

function paint() {
  const scale = scaleOf(state.color, points);
  Object.assign(plot, { ...scale, ink: computed("var(--ink)"), accent: mix("--accent", 100) });
  clear($("#legend"), scale.labels.map((label, index) => h("li", {}, h("span", { class: "key", style: { background: scale.colors[index] } }), label)));
  highlight();
}

/** The points that have the words, and the list of them. */
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
  $("#picked-title").textContent = hasLasso() ? "In the lasso" : "In sight";
  $("#unpick").hidden = !hasLasso();
  const said = `${count(found.length)} of ${count(points.latent.length)} features${found.length > MOST_LISTED ? `; the first ${MOST_LISTED} are listed` : ""}`;
  if ($("#picked-count").textContent !== said) $("#picked-count").textContent = said; // said aloud only when it changes
  const rows = found.slice(0, MOST_LISTED);
  if (listed === `${points.source} ${rows}`) return;
  listed = `${points.source} ${rows}`;
  clear($("#picked"), rows.map((index) => h("li", { on: { pointerenter: () => hover(index), pointerleave: () => hover(-1) } }, grade(points.grade[index]),
    h("a", { href: featureAddress(points.source, points.latent[index]) }, points.text[index] || "no explanation found"),
    h("span", { class: "small muted" }, `${points.latent[index]} · ${percent(points.fire_rate[index])} · domain ${ratio(points.domain_ratio[index])}`))));
}

function hover(index, left = 0, top = 0) {
  if (plot.hovered !== index) { plot.hovered = index; plot.later(); }
  const tip = $("#tip");
  tip.hidden = index < 0 || !left;
  if (tip.hidden) return;
  clear(tip, h("b", {}, points.text[index] || "no explanation found"), h("span", {}, `${points.source}/${points.latent[index]} · ${wordsOf(points, index)}`));
  tip.style.left = `${Math.min(left + 14, canvas.clientWidth - tip.offsetWidth - 4)}px`;
  tip.style.top = `${Math.min(top + 14, canvas.clientHeight - tip.offsetHeight - 4)}px`;
}

function drags() {
  let moved = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (!isShown() || event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    moved = held.size > 1 ? CLICK_PX : 0;
    plot.drawing = held.size === 1 && (state.mode === "lasso" || event.shiftKey) ? [plot.toData(...at(event))] : null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!isShown()) return;
    const [before, here] = [held.get(event.pointerId), at(event)];
    if (!before) { hover(plot.nearest(...here), ...here); return; }
    moved += Math.abs(here[0] - before[0]) + Math.abs(here[1] - before[1]);
    if (held.size === 2) pinch(event.pointerId, here);
    else if (plot.drawing) draw(event, at);
    else plot.panBy(here[0] - before[0], here[1] - before[1]);
    held.set(event.pointerId, here);
  });
  const end = (event) => {
    if (!held.delete(event.pointerId)) return;
    const isUp = event.type === "pointerup";
    const index = isUp && moved < CLICK_PX ? plot.nearest(...at(event)) : -1;
    if (isUp && plot.drawing && index < 0) plot.lasso = moved < CLICK_PX ? [] : plot.settled(thinned([...plot.drawing, plot.toData(...at(event))]));
    plot.drawing = null;
    plot.later();
    if (index < 0) keep();
    else location.assign(featureAddress(points.source, points.latent[index]));
  };
  for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) canvas.addEventListener(name, end);
  canvas.addEventListener("pointerleave", () => { if (plot) hover(-1); });
  canvas.addEventListener("wheel", (event) => {
    if (!isShown()) return;
    event.preventDefault();
    plot.zoomBy(Math.exp(-event.deltaY * 0.0016), ...at(event));
    keepLater();
  }, { passive: false });
}

/** The lasso up to here, with the corners that a fast hand made between two frames. */
function draw(event, at) {
  const between = event.getCoalescedEvents?.() ?? [];
  for (const one of between.length ? between : [event]) plot.drawing.push(plot.toData(...at(one)));
  plot.later();
}

/** Two fingers: zoom by the change of their distance, about their middle. */
function pinch(id, here) {
  const [other] = [...held].filter(([key]) => key !== id).map(([, at]) => at);
  const before = Math.hypot(held.get(id)[0] - other[0], held.get(id)[1] - other[1]);
  const after = Math.hypot(here[0] - other[0], here[1] - other[1]);
  if (before > 0) plot.zoomBy(after / before, (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
}

function keys(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || !isShown()) return;
  const step = 60;
  const moves = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
  const changes = { "+": () => plot.zoomBy(1.4), "=": () => plot.zoomBy(1.4), "-": () => plot.zoomBy(1 / 1.4), 0: () => plot.look(0, 0, 1), Escape: unpick };
  const change = moves[event.key] ? () => plot.panBy(...moves[event.key]) : changes[event.key];
  if (!change) return;
  event.preventDefault();
  change();
  keepLater();
}

function unpick() {
  held.clear();
  Object.assign(plot, { lasso: [], drawing: null });
  plot.later();
}

/** Changes the view or the lasso, where there is a map. */
function act(change) {
  if (!isShown()) return;
  change();
  keep();
}

/** Changes what the controls say, before there is a map too. */
function set(change) {
  Object.assign(state, change);
  writeState(state, DEFAULTS);
  showMode();
  if (isShown()) paint();
}

/** The controls as the state says. */
function fill() {
  if (![...$("#color").options].some((option) => option.value === state.color)) state.color = DEFAULTS.color;
  for (const name of ["source", "color", "find"]) if ($(`#${name}`).value !== state[name]) $(`#${name}`).value = state[name];
  showMode();
}

function showMode() {
  for (const mode of ["move", "lasso"]) $(`#${mode}`).setAttribute("aria-pressed", state.mode === mode);
  canvas.classList.toggle("lasso", state.mode === "lasso");
}

function start() {
  fill();
  drags();
  canvas.addEventListener("keydown", keys);
  new ResizeObserver(() => { plot?.later(); keepLater(); }).observe(canvas);
  for (const mode of ["move", "lasso"]) $(`#${mode}`).addEventListener("click", () => set({ mode }));
  $("#closer").addEventListener("click", () => act(() => plot.zoomBy(1.6)));
  $("#farther").addEventListener("click", () => act(() => plot.zoomBy(1 / 1.6)));
  $("#all").addEventListener("click", () => act(() => plot.look(0, 0, 1)));
  $("#unpick").addEventListener("click", () => act(unpick));
  $("#color").addEventListener("change", () => set({ color: $("#color").value }));
  $("#find").addEventListener("input", later(() => set({ find: $("#find").value }), 120));
  $("#source").addEventListener("change", () => {
    keep();
    Object.assign(state, { source: $("#source").value, lasso: "", view: DEFAULTS.view, layout: DEFAULTS.layout });
    writeState(state, DEFAULTS, true);
    load();
  });
  addEventListener("popstate", () => {
    state = readState(DEFAULTS);
    fill();
    if (isShown()) show(better ?? points);
    else load();
  });
  document.addEventListener("themechange", () => { if (isShown()) paint(); });
  on("/", () => $("#find").focus());
  load();
}

start();
