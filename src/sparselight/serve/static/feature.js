// One feature: contexts by quantile as tabs, j and k to the next and the one before, the way back to the list, notes.
import { api, on } from "./app.js";
import { post, problem } from "./api.js";
import { $, $$, clear, h } from "./dom.js";

const { source, latent } = $("#feature").dataset;

/** The groups of contexts as tabs; the chosen one is in the address, so that its link opens it. */
function makeTabs() {
  const groups = $$(".context-group");
  if (groups.length < 2) return;
  const tabs = groups.map((group, index) => {
    group.id = `contexts-${index}`;
    group.setAttribute("role", "tabpanel");
    group.setAttribute("aria-labelledby", `tab-${index}`);
    group.tabIndex = 0;
    const n = $(".plain", group)?.textContent ?? "";
    return h("button", { type: "button", role: "tab", id: `tab-${index}`, "aria-controls": group.id, on: { click: () => choose(index, true) } },
      group.dataset.tab, " ", h("span", { class: "muted plain" }, n));
  });
  const list = h("div", { class: "segments", role: "tablist", "aria-label": "Contexts" }, tabs);
  groups[0].before(list);

  function choose(index, isNew) {
    groups.forEach((group, at) => { group.hidden = at !== index; });
    tabs.forEach((tab, at) => { tab.setAttribute("aria-selected", at === index); tab.tabIndex = at === index ? 0 : -1; });
    if (isNew) history.replaceState(null, "", `${location.pathname}${location.search}${index ? `#contexts-${index}` : ""}`);
  }

  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = (tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length;
    choose(next, true);
    tabs[next].focus();
  });
  const named = /^#contexts-(\d+)$/.exec(location.hash);
  choose(named && Number(named[1]) < groups.length ? Number(named[1]) : 0, false);
}

function go(id) {
  const link = $(`#${id}`);
  if (link) location.assign(link.href);
}

/** The list as it was left, filters and place included. */
function linkBack() {
  const list = sessionStorage.getItem("list");
  if (list?.startsWith($("#back").getAttribute("href"))) $("#back").href = list;
}

function noteItem(note) {
  return h("li", {}, note.label ? h("b", {}, `${note.label} `) : null, note.text, h("small", { class: "muted" }, `${note.who}, ${note.when}`));
}

function makeNotes() {
  const form = $("#note-form");
  if (!form) return;
  let isSaving = false; // a second click while the first is under way would save the note twice
  form.hidden = false;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const given = { feature: `${source}/${latent}`, label: $("#note-label").value.trim(), text: $("#note-text").value.trim() };
    if (isSaving || (!given.label && !given.text)) return;
    const state = $("#note-state");
    isSaving = true;
    try {
      const saved = await post(api("/notes"), given);
      $("#note-list").append(noteItem(saved.note ?? saved));
      form.reset();
      clear(state, "Saved.");
    } catch (error) {
      clear(state, problem(error));
    } finally {
      isSaving = false;
    }
  });
}

makeTabs();
linkBack();
makeNotes();
on("j", () => go("next"));
on("k", () => go("previous"));
