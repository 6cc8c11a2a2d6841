// What is given to the model: a text, a sequence, a history of items, an example of the corpus. Each widget has `element`, `value()` and `set(value)`.
import { api } from "./app.js";
import { get, isStale } from "./api.js";
import { clear, debounced, h } from "./dom.js";

const WORDS = {
  text: ["Text", "Type or paste a text"], sequence: ["Sequence", "Residues in one-letter code; _ is one to be filled in"],
};

/** The widget for a kind of input; `onChange` is called after each change. */
export function inputOf(kind, onChange) {
  if (kind === "history") return historyInput(onChange);
  return kind === "example" ? exampleInput(onChange) : textInput(kind, onChange);
}

/** An input as the part of the address behind #. */
export function toHash(input) {
  const pairs = Object.entries(input).flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).filter((one) => one !== null && one !== undefined).map((one) => [name, one]));
  return pairs.length ? `#${new URLSearchParams(pairs)}` : "";
}

export function fromHash(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const input = {};
  for (const name of ["text", "sequence", "example"]) if (given.has(name)) input[name] = given.get(name);
  if (given.has("history")) input.history = given.getAll("history");
  return Object.keys(input).length ? input : null;
}

function textInput(kind, onChange) {
  const [title, hint] = WORDS[kind];
  const area = h("textarea", { id: "given", spellcheck: "false", placeholder: hint, rows: 6, "aria-label": title, on: { input: onChange } });
  const picker = combo("Or take an example of the corpus", (text, signal) => examples(text, signal), (found) => {
    example = found.example;
    show();
    onChange();
  });
  const chosen = h("p", { class: "small muted" });
  let example = null;
  const show = () => { area.value = ""; chosen.textContent = example ? `example ${example}` : ""; };
  area.addEventListener("input", () => { example = null; chosen.textContent = ""; });
  return {
    element: h("div", { class: "input-text" }, area, chosen, picker.element),
    value: () => (example ? { example } : area.value.trim() ? { [kind]: area.value } : null),
    set: (given) => {
      example = given.example ?? null;
      show();
      area.value = given[kind] ?? "";
    },
    /** The text of the example, as the answer has it: who changes it goes on from there. */
    fill: (text) => { if (example) area.value = text; },
  };
}

async function examples(text, signal) {
  const found = await get(api("/live/examples"), { text, limit: 20 }, signal);
  return found.examples.map((one) => ({ ...one, title: one.example, note: one.beginning }));
}

function exampleInput(onChange) {
  let example = null;
  const chosen = h("p", {});
  const hint = "A text in place of its report; left empty, the report as it is";
  const area = document.body.dataset.modality === "image" ? h("textarea", { id: "given", spellcheck: "false", rows: 4, placeholder: hint, "aria-label": hint, on: { input: onChange } }) : null;
  const show = () => clear(chosen, example ? ["Example ", h("b", {}, example)] : "No example chosen.");
  const picker = combo("Search an example of the corpus", examples, (found) => { example = found.example; if (area) area.value = ""; show(); onChange(); });
  return {
    element: h("div", { class: "input-text" }, chosen, area, picker.element),
    value: () => (example ? { example, ...(area?.value.trim() ? { text: area.value } : {}) } : null),
    set: (given) => { example = given.example ?? null; if (area) area.value = given.text ?? ""; show(); },
  };
}

function historyInput(onChange) {
  let items = [];
  let example = null;
  const chosen = h("p", { class: "small muted" });
  const list = h("ol", { class: "items" });
  const picker = combo("Add an item by its title", async (text, signal) => {
    const found = await get(api("/live/items"), { text, limit: 20 }, signal);
    return found.items.map((one) => ({ ...one, note: one.marks.slice(0, 5).join(", ") }));
  }, (found) => { items.push({ item: found.item, title: found.title }); example = null; changed(); });

  function changed() {
    show();
    onChange();
  }

  function show() {
    clear(chosen, example ? ["The history of ", h("b", {}, example), " in the corpus. An item that you add begins another one."] : "The oldest first.");
    clear(list, items.map((one, index) => h("li", {}, h("span", {}, one.title),
      h("button", { type: "button", on: { click: () => { items.splice(index, 1); changed(); } }, "aria-label": `Take out ${one.title}` }, "take out"))));
  }

  return {
    element: h("div", {}, chosen, list, picker.element,
      h("p", { class: "row" }, h("button", { type: "button", on: { click: () => { items = []; example = null; changed(); } } }, "Empty the history"))),
    value: () => (items.length ? { history: items.map((one) => one.item) } : example ? { example } : null),
    set: (given) => { items = (given.history ?? []).map((item) => ({ item, title: item })); example = given.example ?? null; show(); },
    /** Titles of the items, as the answer names them. */
    name: (titles) => { if (titles.length === items.length) { items = items.map((one, index) => ({ ...one, title: titles[index] })); show(); } },
  };
}

/** A text field with suggestions: arrows and Enter choose, Escape closes. */
function combo(label, find, onPick) {
  const id = `combo-${label.length}`;
  const field = h("input", { type: "search", id, role: "combobox", "aria-expanded": "false", "aria-controls": `${id}-list`, "aria-autocomplete": "list", autocomplete: "off", spellcheck: "false" });
  const list = h("ul", { class: "options", id: `${id}-list`, role: "listbox", "aria-label": label, hidden: true });
  let found = [];
  let at = -1;
  let stop = null;

  const close = () => { list.hidden = true; field.setAttribute("aria-expanded", "false"); field.removeAttribute("aria-activedescendant"); at = -1; };
  const pick = (index) => { close(); field.value = ""; onPick(found[index]); };
  const mark = (index) => {
    at = (index + found.length) % found.length;
    [...list.children].forEach((option, number) => option.setAttribute("aria-selected", number === at));
    field.setAttribute("aria-activedescendant", list.children[at].id);
    list.children[at].scrollIntoView({ block: "nearest" });
  };
  const search = debounced(async () => {
    stop?.abort();
    stop = new AbortController();
    try {
      found = await find(field.value.trim(), stop.signal);
    } catch (error) {
      if (isStale(error)) return;
      found = [];
    }
    at = -1;
    clear(list, found.map((one, index) => h("li", { role: "option", id: `${id}-${index}`, "aria-selected": "false", on: { mousedown: (event) => { event.preventDefault(); pick(index); } } },
      one.title, one.note ? h("small", {}, one.note) : null)));
    list.hidden = !found.length;
    field.setAttribute("aria-expanded", String(found.length > 0));
  }, 120);
  field.addEventListener("input", search);
  field.addEventListener("focus", () => { if (!found.length) search(); });
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (list.hidden) return;
    if (event.key === "ArrowDown") { event.preventDefault(); mark(at + 1); }
    if (event.key === "ArrowUp") { event.preventDefault(); mark(at - 1); }
    if (event.key === "Enter") { event.preventDefault(); pick(Math.max(0, at)); }
  });
  return { element: h("div", { class: "field combo" }, h("label", { for: id }, label), field, list) };
}
