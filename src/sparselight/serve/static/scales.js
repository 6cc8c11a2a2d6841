// Colors of the map: each scale puts every latent into one of a few bins. Lightness orders them too, so that no hue is needed to read them.
import { percent, ratio } from "./dom.js";

const DOMAIN_EDGES = [1 / 3, 0.75, 1.33, 3]; // fires so many times as often in the domain
const GRADES = ["D", "C", "B", "A"]; // drawn in this order, the best on top

/** {bins, colors, labels} for the points of a map. */
export function scaleOf(name, points) {
  if (name === "domain") return domainScale(points.domain_ratio);
  if (name === "fire_rate") return rateScale(points.fire_rate);
  const bins = points.grade.map((letter) => Math.max(0, GRADES.indexOf(letter)));
  return { bins, colors: [mix("--edge", 45), mix("--edge", 100), mix("--general", 62), mix("--general", 100)], labels: ["D", "C", "B", "A"].map((letter) => `grade ${letter}`) };
}

function domainScale(ratios) {
  const bins = ratios.map((ratio) => DOMAIN_EDGES.filter((edge) => ratio >= edge).length);
  return {
    bins, colors: [mix("--general", 100), mix("--general", 55), mix("--edge", 50), mix("--domain", 55), mix("--domain", 100)],
    labels: ["under ⅓ as often in the domain", "less often", "about as often", "more often", "3 times as often or more"],
  };
}

function rateScale(rates) {
  const edges = [1e-4, 1e-3, 1e-2, 1e-1];
  const bins = rates.map((rate) => edges.filter((edge) => rate >= edge).length);
  return { bins, colors: [20, 40, 60, 80, 100].map((share) => mix("--general", share)), labels: [`under ${percent(edges[0])}`, ...edges.map((edge) => `${percent(edge)} or more`)] };
}

/** So much of a color of the style sheet, the rest background; as the canvas takes it. */
export function mix(name, share) {
  return computed(`color-mix(in srgb, var(${name}) ${share}%, var(--bg))`);
}

export function computed(color) {
  const probe = document.createElement("span");
  probe.style.color = color;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** One line about a latent, for the tip. */
export function wordsOf(points, index) {
  return `grade ${points.grade[index]} · ${percent(points.fire_rate[index])} of tokens · domain ${ratio(points.domain_ratio[index])}`;
}
