// Points on a canvas: the view (center and zoom), drawing in few colors, the point under the pointer, points in sight or in the lasso.
import { isInside } from "./lasso.js";

const CELLS = 160; // of the grid that finds points, a side
const REACH_PX = 12;
const [LEAST_ZOOM, MOST_ZOOM] = [0.5, 400];

export class Plot {
  /** x and y in any units; the first view shows all of them. `drawing` is the lasso that is being drawn: it chooses nothing until it is `lasso`. */
  constructor(canvas, x, y) {
    Object.assign(this, { canvas, x, y, center: [0, 0], zoom: 1, lasso: [], drawing: null, marked: null, hovered: -1, frame: 0 });
    const [low, high] = [bounds(x), bounds(y)];
    this.middle = [(low[0] + low[1]) / 2, (high[0] + high[1]) / 2];
    this.span = Math.max(low[1] - low[0], high[1] - high[0], 1e-9);
    this.grid = new Map();
    for (let index = 0; index < x.length; index += 1) {
      const key = this.cell(x[index], y[index]);
      if (this.grid.has(key)) this.grid.get(key).push(index);
      else this.grid.set(key, [index]);
    }
  }

  cell(x, y) {
    const column = Math.floor(((x - this.middle[0]) / this.span + 0.5) * CELLS);
    return column * 4096 + Math.floor(((y - this.middle[1]) / this.span + 0.5) * CELLS);
  }

  /** Pixels a unit of the data. */
  get scale() {
    return (this.zoom * 0.92 * Math.min(this.canvas.clientWidth, this.canvas.clientHeight)) / this.span;
  }

  toScreen(x, y) {
    const scale = this.scale;
    return [this.canvas.clientWidth / 2 + (x - this.middle[0] - this.center[0] * this.span) * scale,
      this.canvas.clientHeight / 2 - (y - this.middle[1] - this.center[1] * this.span) * scale];
  }

  toData(left, top) {
    const scale = this.scale;
    return [(left - this.canvas.clientWidth / 2) / scale + this.middle[0] + this.center[0] * this.span,
      -(top - this.canvas.clientHeight / 2) / scale + this.middle[1] + this.center[1] * this.span];
  }

  /** Sets the view. */
  look(x, y, zoom) {
    this.center = [x, y];
    this.zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, zoom));
    this.later();
  }

  zoomBy(factor, left = this.canvas.clientWidth / 2, top = this.canvas.clientHeight / 2) {
    const before = this.toData(left, top);
    this.zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, this.zoom * factor));
    const after = this.toData(left, top);
    this.center = [this.center[0] + (before[0] - after[0]) / this.span, this.center[1] + (before[1] - after[1]) / this.span];
    this.later();
  }

  panBy(left, top) {
    const scale = this.scale * this.span;
    this.center = [this.center[0] - left / scale, this.center[1] + top / scale];
    this.later();
  }

  /** Rounds the view to what the address writes, so that what is listed here is what a link lists. */
  settle() {
    this.center = this.center.map((value) => rounded(value, this.scale * this.span));
    this.zoom = rounded(this.zoom, 1);
  }

  /** Corners, rounded as the address writes them: to a tenth of a pixel. */
  settled(corners) {
    return corners.map((corner) => corner.map((value) => rounded(value, this.scale)));
  }

  nearest(left, top) {
    const [x, y] = this.toData(left, top);
    const reach = REACH_PX / this.scale;
    const step = this.span / CELLS;
    const n = Math.min(8, Math.ceil(reach / step));
    let best = -1;
    let least = reach * reach;
    for (let column = -n; column <= n; column += 1) {
      for (let row = -n; row <= n; row += 1) {
        for (const index of this.grid.get(this.cell(x + column * step, y + row * step)) ?? []) {
          const far = (this.x[index] - x) ** 2 + (this.y[index] - y) ** 2;
          if (far < least) [best, least] = [index, far];
        }
      }
    }
    return best;
  }

  /** Indices inside the lasso or, without one, in sight. */
  chosen() {
    const found = [];
    const [[left, top], [right, bottom]] = [this.toData(0, 0), this.toData(this.canvas.clientWidth, this.canvas.clientHeight)];
    for (let index = 0; index < this.x.length; index += 1) {
      const [x, y] = [this.x[index], this.y[index]];
      if (this.lasso.length > 2 ? isInside(this.lasso, x, y) : x >= left && x <= right && y <= top && y >= bottom) found.push(index);
    }
    return found;
  }

  later() {
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); });
  }

  /** Draws all points, `colors[bins[i]]` each; marked ones last, ringed. */
  draw() {
    const { canvas, colors, bins, ink, accent } = this;
    const density = devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (canvas.width !== Math.round(width * density) || canvas.height !== Math.round(height * density)) {
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, height);
    const least = this.x.length > 20000 ? 1.6 : 2.6; // of a dot, in pixels; a few dots may be large
    const size = Math.min(9, Math.max(least, Math.max(least, Math.min(6, 110 / Math.sqrt(this.x.length))) * Math.sqrt(this.zoom)));
    const scale = this.scale;
    const left = width / 2 - (this.middle[0] + this.center[0] * this.span) * scale;
    const top = height / 2 + (this.middle[1] + this.center[1] * this.span) * scale;
    for (let color = 0; color < colors.length; color += 1) {
      pen.beginPath();
      for (let index = 0; index < this.x.length; index += 1) {
        if (bins[index] !== color) continue;
        const [x, y] = [left + this.x[index] * scale, top - this.y[index] * scale];
        if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
        if (size < 3) pen.rect(x - size / 2, y - size / 2, size, size);
        else { pen.moveTo(x + size / 2, y); pen.arc(x, y, size / 2, 0, 7); }
      }
      pen.fillStyle = colors[color];
      pen.globalAlpha = this.marked ? 0.25 : 0.85;
      pen.fill();
    }
    pen.globalAlpha = 1;
    const ring = (index, radius, color) => { pen.beginPath(); pen.arc(left + this.x[index] * scale, top - this.y[index] * scale, radius, 0, 7); pen.lineWidth = 1.8; pen.strokeStyle = color; pen.stroke(); };
    if (this.marked) for (const index of this.marked) ring(index, size / 2 + 2, ink);
    if (this.hovered >= 0) ring(this.hovered, size / 2 + 5, accent);
    this.drawLasso(pen, accent);
  }

  drawLasso(pen, color) {
    const corners = this.drawing ?? this.lasso;
    if (corners.length < 2) return;
    pen.beginPath();
    corners.forEach(([x, y], index) => pen[index ? "lineTo" : "moveTo"](...this.toScreen(x, y)));
    pen.closePath();
    pen.lineWidth = 2;
    pen.strokeStyle = color;
    pen.setLineDash([6, 4]);
    pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 0.08;
    pen.fillStyle = color;
    pen.fill();
    pen.globalAlpha = 1;
  }
}

function bounds(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return values.length ? [low, high] : [0, 1];
}

/** A value with at least four decimals, or as many as say a tenth of a pixel where a unit has so many of them. */
function rounded(value, pixels) {
  return Number(value.toFixed(Math.min(12, Math.max(4, Math.ceil(Math.log10(pixels)) + 1))));
}
