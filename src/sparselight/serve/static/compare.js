// Two SAEs: how many features are in both, have drifted, or are in one alone, beside what chance gives; and which ones.
import { api, featureOf, run } from "./app.js";
import { get, isStale, problem } from "./api.js";
import { $, clear, count, grade, h, number, percent, ratio } from "./dom.js";
import { readState, writeState } from "./state.js";

const KINDS = { matched: "in both", drifted: "drifted", unique_a: "only in the first", unique_b: "only in the second" };
const PAGE = 50;
const DEFAULTS = { a: $("#a").value, b: "", kind: "", offset: 0 };
const SVG = "http://www.w3.org/2000/svg";
let state = readState(DEFAULTS);
let stop = null;

async function load() {
  stop?.abort();
  stop = new AbortController();
  clear($("#problem"));
  if (!state.b) {
    clear($("#problem"), h("p", { class: "missing" }, "There is one SAE only. Serve another run beside this one to compare with it: sparselight serve RUN RUN2."));
    return;
  }
  $("#result").setAttribute("aria-busy", "true");
  if ($("#result").hidden) clear($("#problem"), h("p", { class: "busy" }, "Pairing features"));
  try {
    const found = await ask(state.kind || "matched");
    const fuller = Object.keys(KINDS).find((kind) => found.counts[kind]);
    show(state.kind || found.total || !fuller ? found : await ask(fuller));
  } catch (error) {
    if (isStale(error)) return;
    $("#result").hidden = true;
    clear($("#problem"), problem(error));
  }
  $("#result").removeAttribute("aria-busy");
}

const ask = (kind) => get(api("/compare"), { ...state, kind, limit: PAGE }, stop.signal);

function show(found) {
  state.kind = found.kind;
  clear($("#problem"));
  $("#result").hidden = false;
  const names = [label(found.run_a, found.a, found), label(found.run_b, found.b, found)];
  clear($("#counts"), Object.entries(KINDS).map(([kind, words]) => h("button", {
    type: "button", role: "tab", class: "tile", id: `kind-${kind}`, "aria-selected": kind === found.kind, "aria-controls": "rows-panel", tabindex: kind === found.kind ? 0 : -1,
    on: { click: () => go({ kind, offset: 0 }), keydown: step },
  }, h("span", {}, words), h("b", {}, count(found.counts[kind])), h("span", {}, `control ${count(found.control[kind])}`))));
  clear($("#curve"), curve(found), h("figcaption", {}, `Cosine of every pair, largest first: ${names[0]} with ${names[1]}. Dashed: after a random rotation. In both: ${found.matched_from} or more; drifted: ${found.drifted_from} or more.`));
  const same = found.labelled_pairs ? ` Of ${count(found.labelled_pairs)} pairs in both that are labelled on both sides, ${count(found.same_label)} have the same one.` : "";
  $("#labels").textContent = `${count(found.n_a)} latents of ${names[0]} and ${count(found.n_b)} of ${names[1]} fire.${same}`;
  clear($("#notes"), found.notes.map((note) => h("p", { class: "missing" }, note)));
  $("#rows-title").textContent = `${KINDS[found.kind][0].toUpperCase()}${KINDS[found.kind].slice(1)}`;
  $("#rows-panel").setAttribute("aria-labelledby", `kind-${found.kind}`);
  clear($("#rows"), found.rows.length ? found.rows.map((row) => h("div", { class: "pair" }, side(row.a, found.run_a), h("div", { class: "cos" }, h("b", {}, number(row.cosine)), h("small", {}, row.a && row.b ? "cosine" : "largest cosine")), side(row.b, found.run_b)))
    : h("p", { class: "missing" }, "No feature is of this kind."));
  pager(found);
}

function label(id, source, { run_a, run_b }) {
  return run_a === run_b ? source : `${source} of ${id}`;
}

function side(one, id) {
  if (!one) return h("div", { class: "one muted small" }, h("span", {}, ""), h("span", {}, "no partner"));
  const [source, latent] = featureOf(one.feature);
  return h("div", { class: "one" }, grade(one.grade || "D"), h("a", { href: `/runs/${encodeURIComponent(id)}/features/${encodeURIComponent(source)}/${latent}` }, one.text || "no explanation found"),
    h("span", { class: "small muted" }, `${one.feature} · F1 ${number(one.f1)} · ${percent(one.fire_rate)} of tokens · domain ${one.domain_ratio === null ? "only" : ratio(one.domain_ratio)}`));
}

function pager({ total, offset }) {
  const button = (words, to, can) => h("button", { type: "button", disabled: !can, on: { click: () => go({ offset: to }) } }, words);
  clear($("#pager"), total ? h("span", { class: "muted" }, `${count(offset + 1)} to ${count(Math.min(total, offset + PAGE))} of ${count(total)}`) : null,
    button("previous", Math.max(0, offset - PAGE), offset > 0), button("next", offset + PAGE, offset + PAGE < total));
}

/** Cosines of pairs against their rank, and those of the control. */
function curve({ cosines, control_cosines, matched_from, drifted_from }) {
  const [width, height, left, bottom] = [460, 190, 40, 160];
  const x = (share) => left + share * (width - left - 8);
  const y = (value) => bottom - Math.max(0, value) * (bottom - 10);
  const make = (tag, props, words) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(props)) element.setAttribute(name, value);
    if (words !== undefined) element.textContent = words;
    return element;
  };
  const line = (values, css) => make("path", { class: css, d: values.map((value, index) => `${index ? "L" : "M"}${x(index / Math.max(1, values.length - 1)).toFixed(1)} ${y(value).toFixed(1)}`).join("") });
  const svg = make("svg", { class: "figure", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Cosines of pairs: from ${number(cosines[0])} to ${number(cosines.at(-1))}; control from ${number(control_cosines[0])} to ${number(control_cosines.at(-1))}` });
  for (const tick of [0, 0.5, 1]) svg.append(make("line", { class: "grid", x1: left, x2: width - 8, y1: y(tick), y2: y(tick) }), make("text", { class: "tiny muted", x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, tick));
  for (const limit of [matched_from, drifted_from]) svg.append(make("line", { class: "divider", x1: left, x2: width - 8, y1: y(limit), y2: y(limit) }));
  svg.append(line(control_cosines, "stroke-muted dashed curve"), line(cosines, "stroke-general curve"), make("text", { class: "tiny muted", x: left, y: bottom + 18 }, "largest"), make("text", { class: "tiny muted", x: width - 8, y: bottom + 18, "text-anchor": "end" }, "smallest of the pairs"));
  return svg;
}

function go(change) {
  state = { ...state, ...change };
  writeState(state, { ...DEFAULTS, b: "" }, true);
  load();
}

function step(event) {
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!move) return;
  const kinds = Object.keys(KINDS);
  const next = kinds[(kinds.indexOf(state.kind) + move + kinds.length) % kinds.length];
  event.preventDefault();
  go({ kind: next, offset: 0 });
  $(`#kind-${next}`)?.focus();
}

/** The other runs' SAEs among the choices. */
async function addOthers() {
  const { runs } = await get("/api/runs");
  const others = runs.filter((one) => one.id !== run && !one.problem && one.n_features);
  const found = await Promise.all(others.map(async (one) => (await get(`/api/runs/${encodeURIComponent(one.id)}/facets`)).sources.map((source) => h("option", { value: `${one.id}:${source.name}` }, `${source.name} of ${one.name}`))));
  $("#b").append(...found.flat());
}

function fill() {
  const first = [...$("#b").options].map((option) => option.value).find((value) => value !== state.a) ?? "";
  state.b = state.b || first;
  $("#a").value = state.a;
  $("#b").value = state.b;
}

async function start() {
  try {
    await addOthers();
  } catch (error) {
    clear($("#problem"), problem(error));
  }
  fill();
  for (const name of ["a", "b"]) $(`#${name}`).addEventListener("change", () => go({ [name]: $(`#${name}`).value, offset: 0 }));
  addEventListener("popstate", () => { state = readState(DEFAULTS); fill(); load(); });
  load();
}

start();
