// Try it: what is given goes to the model after each pause in typing; features that fire, where, and what happens when some are turned.
import { api, on } from "./app.js";
import { get, isStale, post, problem } from "./api.js";
import { $, clear, count, debounced, h } from "./dom.js";
import { showFired, showTokens, tokensOf } from "./fired.js";
import { fromHash, inputOf, toHash } from "./inputs.js";
import { editOf, fromText, knobElement, newKnob, toText } from "./knobs.js";
import { showOutcome } from "./outcome.js";
import { readState, writeState } from "./state.js";

const DEFAULTS = { feature: "", edits: "", rank: "relative", n_tokens: 40, temperature: 0, seed: 0, where: "counted" };
const LENGTHS = { text: ["tokens to write", 1, 40], sequence: ["residues written anew", 0, 8] }; // words, fewest, how many at first
let state = readState(DEFAULTS);
let info = null;
let input = null;
let answer = null;
let knobs = [];
const running = { fire: null, edit: null };

function keep() {
  state.edits = toText(knobs);
  writeState(state, DEFAULTS, false, toHash(input.value() ?? {}));
}

/** One request of a kind at a time: a newer one takes the place of an older one. */
async function only(kind, path, body) {
  running[kind]?.abort();
  running[kind] = new AbortController();
  return post(api(path), body, running[kind].signal);
}

async function fire() {
  const given = input.value();
  keep();
  if (!given) {
    running.fire?.abort();
    $("#state").className = "small muted";
    $("#state").textContent = "Nothing is given yet.";
    return;
  }
  $("#state").className = "small muted busy";
  const wanted = [...new Set([...knobs.map((knob) => knob.feature), state.feature].filter(Boolean))];
  try {
    answer = await only("fire", "/live/activations", { input: given, rank_by: state.rank, top: 30, features: wanted });
  } catch (error) {
    if (isStale(error)) return;
    $("#state").className = "small muted";
    clear($("#problem"), problem(error));
    return;
  }
  clear($("#problem"));
  $("#state").className = "small muted";
  const firing = Object.entries(answer.n_firing).map(([name, n]) => `${count(n)} of ${name}`).join(", ");
  $("#state").textContent = `${tokensOf(answer.tokens.length)}; latents that fire: ${firing}; ${count(answer.took_ms)} ms.${answer.notes.length ? ` ${answer.notes.join(" ")}` : ""}`;
  input.fill?.(answer.text);
  input.name?.(answer.tokens.map((token) => token.text.trim()));
  show();
}

function show() {
  if (!answer) return;
  const chosen = answer.features.some((one) => one.feature === state.feature) ? state.feature : answer.features.find((one) => one.n_tokens)?.feature ?? "";
  showFired($("#fired"), answer, chosen, { onChoose: choose, onTurn: info.edits_allowed ? turn : null });
  showTokens(answer, chosen, choose);
}

function choose(feature) {
  state.feature = feature;
  keep();
  if (answer?.features.some((one) => one.feature === feature)) show();
  else fire();
}

const edit = debounced(async () => {
  keep();
  const given = input.value();
  if (!given || !knobs.length) {
    running.edit?.abort();
    $("#outcome").removeAttribute("aria-busy");
    clear($("#outcome"));
    clear($("#edit-problem"));
    return;
  }
  $("#outcome").setAttribute("aria-busy", "true");
  if (!$("#outcome").childElementCount) clear($("#outcome"), h("p", { class: "busy" }, "Running the model without and with the edits"));
  const { n_tokens, temperature, seed, where } = state;
  try {
    const found = await only("edit", "/live/edit", { input: given, edits: knobs.map(editOf), n_tokens, temperature, seed, where });
    clear($("#edit-problem"));
    showOutcome($("#outcome"), found);
  } catch (error) {
    if (isStale(error)) return;
    clear($("#outcome"));
    clear($("#edit-problem"), problem(error));
  }
  $("#outcome").removeAttribute("aria-busy");
}, 250);

function turn(feature) {
  if (!knobs.some((knob) => knob.feature === feature)) knobs.push(newKnob(feature, info));
  showKnobs();
  edit();
  $(`#knobs [data-feature="${CSS.escape(feature)}"] input[type="range"]`)?.focus();
}

function showKnobs() {
  const texts = new Map((answer?.features ?? []).map((one) => [one.feature, one.text]));
  clear($("#knobs"), knobs.map((knob) => knobElement(knob, info, texts.get(knob.feature), {
    onChange: edit, onRemove: () => { knobs = knobs.filter((one) => one !== knob); showKnobs(); edit(); },
  })));
  $("#how-written").hidden = !knobs.length;
}

/** How long, how random, and where. */
function makeSettings() {
  const field = (label, name, props) => h("div", { class: "field" }, h("label", { for: `set-${name}` }, label),
    h("input", { id: `set-${name}`, type: "number", value: state[name], style: { width: "8rem" }, on: { input: (event) => { if (event.target.value !== "") { state[name] = Number(event.target.value); edit(); } } }, ...props }));
  const where = h("div", { class: "field" }, h("label", { for: "set-where" }, "where edits hold"), h("select", { id: "set-where", style: { width: "10rem" }, on: { change: (event) => { state.where = event.target.value; edit(); } } },
    [["counted", "everywhere"], ["prompt", "in the input"], ["generated", "in what is written"], ["last", "at the last token"]].map(([value, words]) => h("option", { value, selected: value === state.where }, words))));
  const length = LENGTHS[info.writes];
  clear($("#how-written"), length ? [field(length[0], "n_tokens", { min: length[1], max: info.limits.max_new_tokens, step: 1 }), field("temperature", "temperature", { min: 0, max: 5, step: 0.1 }),
    field("seed", "seed", { min: 0, step: 1 }), where] : [where]);
}

const changed = debounced(() => { fire(); if (knobs.length) edit(); }, 150);

async function start() {
  try {
    info = await get(api("/live"), { load: true });
  } catch (error) {
    clear($("#problem"), problem(error));
    clear($("#input"));
    return;
  }
  DEFAULTS.n_tokens = LENGTHS[info.writes]?.[2] ?? DEFAULTS.n_tokens;
  state = readState(DEFAULTS);
  input = inputOf(info.input, changed);
  clear($("#input"), input.element);
  input.set(fromHash(location.hash) ?? info.beginning ?? {});
  $("#rank").value = state.rank;
  $("#rank").addEventListener("change", () => { state.rank = $("#rank").value; fire(); });
  knobs = fromText(state.edits, info);
  $("#add-feature").hidden = !info.edits_allowed;
  if (!info.edits_allowed) $("#turn-how").textContent = "This server does not allow edits.";
  $("#add-feature").addEventListener("submit", (event) => { event.preventDefault(); const name = $("#add-name").value.trim(); if (name) turn(name.includes("/") ? name : `base/${name}`); $("#add-name").value = ""; });
  on("/", () => $("#input textarea, #input input")?.focus());
  makeSettings();
  showKnobs();
  if (!info.ready) $("#state").textContent = "Loading the model; the first answer takes a moment.";
  await fire();
  showKnobs();
  if (knobs.length) edit();
}

start();
