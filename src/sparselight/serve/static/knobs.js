// The knobs: a feature, what is done to it, how strongly. In the address: `base/12:clamp:2:max`, several joined by `;`.
import { featureAddress, featureOf } from "./app.js";
import { h, source } from "./dom.js";

const WITHOUT_AMOUNT = ["ablate", "ablate_mean"];
const RANGES = { scale: [-2, 6], max: [-1, 3], q99: [-1, 4], active_mean: [-4, 10], mean: [-50, 100], absolute: [-20, 60] };
const FIRST_AMOUNT = { clamp: 1.5, add: 1, scale: 3 };

export function toText(knobs) {
  return knobs.map((knob) => [knob.feature, knob.operation, knob.amount, knob.unit].join(":")).join(";");
}

export function fromText(text, info) {
  return text.split(";").filter(Boolean).map((part) => {
    const [feature, operation, amount, unit] = part.split(":");
    const made = newKnob(feature, info);
    if (operation in info.operations) made.operation = operation;
    if (Number.isFinite(Number(amount)) && amount !== undefined) made.amount = Number(amount);
    if (info.units.includes(unit)) made.unit = unit;
    return made;
  });
}

export function newKnob(feature, info) {
  const operation = "clamp" in info.operations ? "clamp" : Object.keys(info.operations)[0];
  return { feature, operation, amount: FIRST_AMOUNT[operation] ?? 1, unit: info.units.includes("max") ? "max" : "absolute" };
}

/** One knob as an element; `onChange` after every change, `onRemove` when it is taken away. */
export function knobElement(knob, info, text, { onChange, onRemove }) {
  const [name, latent] = featureOf(knob.feature);
  const number = h("input", { type: "number", step: "any", value: knob.amount, "aria-label": `Amount for ${knob.feature}` });
  const slider = h("input", { type: "range", step: "0.05", "aria-label": `Amount for ${knob.feature}` });
  const unit = h("select", { "aria-label": `Unit for ${knob.feature}` }, info.units.map((one) => h("option", { value: one, selected: one === knob.unit }, unitWords(one))));
  const operation = h("select", { "aria-label": `Operation on ${knob.feature}` },
    Object.entries(info.operations).map(([one, said]) => h("option", { value: one, title: said, selected: one === knob.operation }, one.replace("_", " "))));

  const fit = () => {
    const has = !WITHOUT_AMOUNT.includes(knob.operation);
    const [low, high] = RANGES[knob.operation === "scale" ? "scale" : knob.unit] ?? RANGES.absolute;
    slider.min = Math.min(low, knob.amount);
    slider.max = Math.max(high, knob.amount);
    slider.value = knob.amount;
    for (const element of [slider, number]) element.disabled = !has;
    unit.disabled = !has || knob.operation === "scale";
  };
  const changed = () => { fit(); onChange(); };
  slider.addEventListener("input", () => { knob.amount = Number(slider.value); number.value = knob.amount; onChange(); });
  number.addEventListener("input", () => { if (number.value !== "" && Number.isFinite(Number(number.value))) { knob.amount = Number(number.value); changed(); } });
  operation.addEventListener("change", () => { knob.operation = operation.value; changed(); });
  unit.addEventListener("change", () => { knob.unit = unit.value; changed(); });
  fit();
  return h("li", { class: "knob", "data-feature": knob.feature },
    h("span", {}, h("a", { href: featureAddress(name, latent) }, text || "feature"), " ", h("span", { class: "small muted" }, source(name), ` ${latent}`)),
    h("button", { type: "button", on: { click: onRemove }, "aria-label": `Take ${knob.feature} away` }, "take away"),
    h("span", { class: "where" }, operation, h("span", { class: "slide" }, slider), number, unit));
}

/** A knob as the API takes it. */
export function editOf(knob) {
  const has = !WITHOUT_AMOUNT.includes(knob.operation);
  return { feature: knob.feature, operation: knob.operation, amount: has ? knob.amount : 0, unit: has && knob.operation !== "scale" ? knob.unit : "absolute" };
}

function unitWords(unit) {
  return { absolute: "activation units", max: "× its largest", mean: "× its mean", active_mean: "× its mean firing", q99: "× its 99 % quantile" }[unit] ?? `× ${unit}`;
}
