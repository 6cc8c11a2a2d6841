// A lasso: the corners of a drag, as few as tell its shape, as the address writes them; what lies inside.

const MOST_CORNERS = 60; // in the address
const MOST_GIVEN = 1000; // of a long drag, before the telling ones are chosen

export function toText(corners) {
  return corners.map((corner) => corner.join(",")).join(";");
}

export function fromText(text) {
  return text.split(";").map((corner) => corner.split(",").map(Number)).filter((corner) => corner.length === 2 && corner.every(Number.isFinite));
}

/** The corners that tell most of the shape: the one that spans the smallest triangle with its neighbors goes first (Visvalingam and Whyatt 1993). */
export function thinned(corners) {
  const step = Math.max(1, Math.ceil(corners.length / MOST_GIVEN));
  const kept = corners.filter((_, index) => index % step === 0);
  const size = (index) => triangle(kept.at(index - 1), kept[index], kept[(index + 1) % kept.length]);
  const sizes = kept.map((_, index) => size(index));
  while (kept.length > MOST_CORNERS) {
    const at = sizes.indexOf(Math.min(...sizes));
    kept.splice(at, 1);
    sizes.splice(at, 1);
    for (const index of [(at || kept.length) - 1, at % kept.length]) sizes[index] = size(index);
  }
  return kept;
}

/** Twice the area of a triangle. */
function triangle([x1, y1], [x2, y2], [x3, y3]) {
  return Math.abs((x2 - x1) * (y3 - y1) - (x3 - x1) * (y2 - y1));
}

/** Whether a point lies in a polygon: an odd number of edges crosses the ray to its right. */
export function isInside(polygon, x, y) {
  let inside = false;
  for (let at = 0, before = polygon.length - 1; at < polygon.length; before = at, at += 1) {
    const [[x1, y1], [x2, y2]] = [polygon[at], polygon[before]];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) inside = !inside;
  }
  return inside;
}
