// Features that fire on the input, and the input colored by the chosen one.
import { featureAddress } from "./app.js";
import { $, $$, clear, count, grade, h, number, percent, rendered, source } from "./dom.js";

const SPARK = [84, 22];

/** So many tokens, by what a token is in this run. */
export function tokensOf(n) {
  const word = { items: "item", residues: "residue" }[document.body.dataset.modality] ?? "token";
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}

/** The list: each feature with its activations over the tokens, its name to choose it, a button to turn it. */
export function showFired(list, answer, chosen, { onChoose, onTurn }) {
  list.hidden = answer.features.length === 0;
  clear(list, answer.features.map((one) => h("li", { class: one.feature === chosen ? "chosen" : null, "data-feature": one.feature },
    grade(one.grade || "D"),
    h("button", { type: "button", class: "name", "aria-pressed": one.feature === chosen, on: { click: () => onChoose(one.feature) } }, one.text || "no explanation found"),
    h("span", { class: "small muted" }, source(one.source), ` ${one.latent} · ${strength(one)} · `, h("a", { href: featureAddress(one.source, one.latent) }, "card")),
    spark(one.activations), onTurn ? h("button", { type: "button", class: "add", on: { click: () => onTurn(one.feature) }, "aria-label": `Turn ${one.feature}` }, "turn") : null)));
}

function strength(one) {
  if (!one.n_tokens) return "does not fire here";
  const largest = one.relative === null ? number(one.max_activation) : `${percent(one.relative, 2)} of its largest`;
  return `${largest} · ${tokensOf(one.n_tokens)}`;
}

/** Activations over the tokens as bars; decoration beside the numbers. */
function spark(values) {
  const [width, height] = SPARK;
  const largest = Math.max(...values, 1e-12);
  const step = width / values.length;
  const bars = values.map((value, index) => (value > 0 ? `M${(index * step).toFixed(1)} ${height}v${(-height * value / largest).toFixed(1)}h${Math.max(1, step).toFixed(1)}V${height}z` : "")).join("");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("preserveAspectRatio", "none");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", bars);
  svg.append(path);
  return svg;
}

/** The input, colored; a token that is clicked or reached by the arrow keys tells its strongest features. */
export function showTokens(answer, chosen, onChoose) {
  const feature = answer.features.find((one) => one.feature === chosen);
  $("#tokens-part").hidden = false;
  clear($("#tokens-title"), feature ? ["Where ", h("q", {}, feature.text || feature.feature), " fires"] : "The input as the model sees it");
  const box = $("#tokens");
  clear(box, rendered("div", { class: "text" }, feature ? feature.html : answer.html));
  const peak = $(".token.peak", box);
  box.scrollTop = peak ? peak.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 2 : 0;
  const spans = $$(".token", box);
  let at = -1;
  const show = (index) => {
    spans[at]?.classList.remove("chosen");
    at = Math.min(spans.length - 1, Math.max(0, index));
    spans[at].classList.add("chosen");
    spans[at].scrollIntoView({ block: "nearest", inline: "nearest" });
    const token = answer.tokens[at + answer.tokens.length - spans.length];
    const named = new Map(answer.features.map((one) => [one.feature, one.text]));
    clear($("#at-token"), "At ", h("span", { class: "chip" }, spans[at].textContent), ": ", token.top.length ? token.top.map((one) => [
      h("button", { type: "button", class: "link", on: { click: () => onChoose(one.feature) } }, named.get(one.feature) || one.feature), ` ${number(one.activation)}  `]).flat() : "no feature fires.");
  };
  box.onclick = (event) => { const index = spans.indexOf(event.target.closest(".token")); if (index >= 0) show(index); };
  box.onkeydown = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || !spans.length) return;
    event.preventDefault();
    show(at + step);
  };
  clear($("#at-token"));
}
