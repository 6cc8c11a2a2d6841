// What the model does without and with the edits: continuations, filled-in sequences, rankings, predictions, and how far they moved.
import { clear, h, number, percent, rendered, tokenText } from "./dom.js";

const MOST_MARKS = 4;
const isItems = () => document.body.dataset.modality === "items";
const chip = (text) => (isItems() ? h("span", {}, text) : h("span", { class: "chip" }, tokenText(text)));

export function showOutcome(box, answer) {
  clear(box, sides(answer), answer.ranking ? ranking(answer.ranking) : null, h("div", { class: "columns" }, candidates(answer), places(answer)), divergence(answer),
    ...answer.notes.map((note) => h("p", { class: "small muted" }, note)), asRecord(answer));
}

function side(css, title, ...content) {
  return h("div", { class: `side ${css}` }, h("h3", {}, h("span", { class: `key ${css}` }), title), ...content);
}

function sides({ before, after }) {
  if (!before || !after) return null;
  const same = before.text === after.text;
  return h("div", { class: "sides" }, side("before", "before", rendered("p", { class: "written" }, before.html)),
    side("after", same ? "after: no change" : "after", rendered("p", { class: "written" }, after.html)));
}

function ranking({ before, after, overlap, kendall }) {
  const item = (one, isAfter) => {
    const step = one.rank_before - one.rank_after;
    const moved = !isAfter || step === 0 ? null : h("span", { class: step > 0 ? "up" : "down" }, ` ${step > 0 ? "▲" : "▼"} from ${one.rank_before}`);
    return h("li", { value: isAfter ? one.rank_after : one.rank_before }, one.title, one.marks.length ? h("small", { class: "muted" }, ` ${one.marks.slice(0, MOST_MARKS).join(", ")}`) : null, moved);
  };
  return h("div", {}, h("div", { class: "sides" },
    side("before", "recommended before", h("ol", { class: "ranking" }, before.map((one) => item(one, false)))),
    side("after", "recommended after", h("ol", { class: "ranking" }, after.map((one) => item(one, true))))),
  h("p", { class: "small muted" }, `${percent(overlap, 2)} of the list stays; Kendall's tau ${number(kendall)}.`));
}

function candidates(answer) {
  if (!answer.candidates.length) return null;
  const largest = Math.max(...answer.candidates.flatMap((one) => [one.before, one.after]), 1e-12);
  const bar = (css, value) => h("span", { class: `bar ${css}`, style: { width: `${(100 * value) / largest}%` } });
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Predictions" }, h("table", { class: "wide tokens-table" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "prediction"), h("th", { scope: "col" }, h("span", { class: "keyed" }, h("span", { class: "key before" }), "before"), " ", h("span", { class: "keyed" }, h("span", { class: "key after" }), "after")),
      h("th", { scope: "col", class: "number" }, "before"), h("th", { scope: "col", class: "number" }, "after"))),
    h("tbody", {}, answer.candidates.map((one) => h("tr", {}, h("th", { scope: "row" }, chip(one.text)),
      h("td", { class: "bars" }, bar("before", one.before), bar("after", one.after)), h("td", { class: "number" }, percent(one.before)), h("td", { class: "number" }, percent(one.after)))))));
}

function places(answer) {
  if (!answer.places.length) return null;
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Where predictions change most" }, h("table", { class: "wide tokens-table" },
    h("thead", {}, h("tr", {}, ["changes most at", "before", "after"].map((title) => h("th", { scope: "col" }, title)), h("th", { scope: "col", class: "number" }, "KL, nats"))),
    h("tbody", {}, answer.places.slice(0, 8).map((one) => h("tr", {}, h("th", { scope: "row" }, chip(one.text), h("small", { class: "muted" }, ` ${one.token + 1}`)),
      h("td", {}, chip(one.before)), h("td", {}, chip(one.after)), h("td", { class: "number" }, number(one.kl_nats)))))));
}

function divergence(answer) {
  if (!answer.kl_nats.length) return answer.kl_why_not ? h("p", { class: "small muted" }, `KL was not measured: ${answer.kl_why_not}.`) : null;
  const largest = Math.max(...answer.kl_nats.map((value) => value ?? 0), 1e-12);
  return h("div", {}, h("p", { class: "small" }, "Mean KL(before || after) over the input: ", h("b", {}, number(answer.mean_kl_nats)), " nats a token. By token:"),
    h("div", { class: "klbars", "aria-hidden": "true" }, answer.kl_nats.map((value) => h("span", { style: { height: `${(100 * (value ?? 0)) / largest}%` } }))));
}

function asRecord(answer) {
  return h("details", {}, h("summary", {}, "The edits, to be used again"), ...answer.edits.map((words) => h("p", { class: "small" }, words)),
    h("pre", { tabindex: 0 }, JSON.stringify(answer.record, null, 2)), h("p", { class: "small muted" }, "Saved to a file, run.edit(file) in Python does the same again."));
}
