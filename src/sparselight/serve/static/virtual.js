// A long list of which only the rows in sight are elements. Rows are fetched in blocks and kept; a row that is not there yet is shown empty.
import { h } from "./dom.js";

const BLOCK = 100;
const MARGIN = 8; // rows above and below those in sight
const SLACK = 0.05; // of a row: the browser rounds where it scrolls to, to a pixel of the screen
const MOST_PX = 8_000_000; // browsers lose precision beyond; a longer list scrolls faster than its rows are high

/**
 * @param body the element that scrolls; its children become the rows.
 * @param fetchRows (offset, limit, signal) => {total, rows}
 * @param makeRow (row or null, index) => element
 * @param onChange ({first, total}) after scrolling or loading.
 */
export class VirtualList {
  constructor(body, { fetchRows, makeRow, onChange, onError }) {
    Object.assign(this, { body, fetchRows, makeRow, onChange, onError, total: 0, blocks: new Map(), shown: new Map(), chosen: -1, frame: 0 });
    this.space = h("div", { class: "space", role: "presentation" });
    body.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(body);
  }

  get rowHeight() {
    return Number.parseFloat(getComputedStyle(this.body).getPropertyValue("--row")) || 52;
  }

  get first() {
    const rows = (this.body.scrollTop * this.stretch()) / this.rowHeight;
    return Math.min(Math.max(0, this.total - 1), Math.floor(rows + SLACK));
  }

  /** How many pixels of rows a pixel of scrolling stands for. */
  stretch() {
    const room = this.total * this.rowHeight;
    return room > MOST_PX ? (room - this.body.clientHeight) / (MOST_PX - this.body.clientHeight) : 1;
  }

  /** Forgets all rows and loads those at `first`. */
  async reset(first = 0) {
    this.blocks.clear();
    this.stop?.abort();
    const { signal } = this.stop = new AbortController();
    await this.load(Math.floor(first / BLOCK));
    if (!signal.aborted) this.scrollTo(first); // else other rows were asked for meanwhile
  }

  scrollTo(index) {
    this.layout();
    this.body.scrollTop = (index * this.rowHeight) / this.stretch();
    this.draw();
  }

  row(index) {
    return this.blocks.get(Math.floor(index / BLOCK))?.[index % BLOCK] ?? null;
  }

  /** Moves the choice by a step, keeping it in sight. */
  choose(index) {
    if (!this.total) return;
    this.chosen = Math.min(this.total - 1, Math.max(0, index));
    const height = this.rowHeight;
    const top = this.chosen * height;
    const seen = this.body.scrollTop * this.stretch();
    if (top < seen) this.body.scrollTop = top / this.stretch();
    else if (top + height > seen + this.body.clientHeight) this.body.scrollTop = (top + height - this.body.clientHeight) / this.stretch();
    this.draw();
  }

  async load(block) {
    if (block < 0 || this.blocks.has(block)) return;
    const signal = this.stop?.signal;
    this.blocks.set(block, []);
    try {
      const found = await this.fetchRows(block * BLOCK, BLOCK, signal);
      if (signal?.aborted) return;
      this.total = found.total;
      this.blocks.set(block, found.rows);
    } catch (error) {
      if (signal?.aborted) return;
      this.blocks.delete(block);
      this.onError(error);
      return;
    }
    this.layout();
    this.later();
  }

  /** The element of a row: the same one while its row is the same, so that it keeps the focus. */
  element(index) {
    const row = this.row(index);
    const kept = this.shown.get(index);
    if (kept && kept.row === row) return kept.element;
    kept?.element.remove();
    const element = this.makeRow(row, index);
    this.shown.set(index, { row, element });
    return element;
  }

  layout() {
    if (!this.space.isConnected) this.body.replaceChildren(this.space);
    this.space.style.height = `${Math.min(MOST_PX, this.total * this.rowHeight)}px`;
  }

  later() {
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = 0; this.draw(); });
  }

  draw() {
    const height = this.rowHeight;
    const seen = this.body.scrollTop * this.stretch();
    const from = Math.max(0, Math.floor(seen / height) - MARGIN);
    const to = Math.min(this.total, Math.ceil((seen + this.body.clientHeight) / height) + MARGIN);
    this.layout();
    for (const [index, { element }] of this.shown) {
      if (index >= from && index < to) continue;
      element.remove();
      this.shown.delete(index);
    }
    let before = this.space;
    for (let index = from; index < to; index += 1) {
      const element = this.element(index);
      element.style.top = `${this.body.scrollTop + index * height - seen}px`;
      element.classList.toggle("chosen", index === this.chosen);
      if (before.nextElementSibling !== element) before.after(element);
      before = element;
    }
    for (let block = Math.floor(from / BLOCK); to > from && block <= Math.floor((to - 1) / BLOCK); block += 1) this.load(block);
    this.onChange({ first: this.first, total: this.total });
  }
}
