// The one script of a frozen page: shows a part at a time, searches and filters the list. It reads the data block of the page and asks nobody for anything.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const MOST_ROWS = 300;
  const column = Object.fromEntries(data.columns.map((name, index) => [name, index]));
  const find = (id) => document.getElementById(id);
  const parts = [...document.querySelectorAll("main > section.part")];
  const controls = ["text", "grade", "source", "supported", "domain", "paged", "sort"].map((name) => find(`filter-${name}`));

  const element = (tag, options = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(options)) {
      if (name === "text") made.textContent = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  };
  const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));
  const percent = (value) => `${(100 * value).toPrecision(2)} %`;

  const fits = (row) => {
    const [text, grade, source, supported, domain, paged] = controls;
    const words = text.value.trim().toLowerCase();
    return (!words || `${row[column.text]} ${row[column.label]} ${row[column.source]}/${row[column.latent]}`.toLowerCase().includes(words))
      && (!grade.value || row[column.grade] <= grade.value) && (!source.value || row[column.source] === source.value)
      && (!supported.checked || row[column.supported]) && (!domain.checked || row[column.domain_ratio] === null || row[column.domain_ratio] >= 3)
      && (!paged.checked || row[column.page]);
  };
  const keys = {
    grade: (row) => [row[column.grade].charCodeAt(0), -(row[column.f1] ?? -1)],
    f1: (row) => [-(row[column.f1] ?? -1)],
    domain_ratio: (row) => [-(row[column.domain_ratio] ?? Infinity)],
    fire_rate: (row) => [-row[column.fire_rate]],
    latent: (row) => [row[column.latent]],
  };
  const sorted = (rows) => {
    const key = keys[find("filter-sort").value];
    const keyed = rows.map((row) => [key(row), row]);
    keyed.sort(([a], [b]) => a.reduce((found, value, index) => found || value - b[index] || 0, 0));
    return keyed.map(([, row]) => row);
  };
  const line = (row) => {
    const name = row[column.text] || "no explanation found";
    const title = row[column.page] ? element("a", { href: `#${row[column.page]}`, text: name }) : element("span", { text: name });
    return element("tr", {},
      element("td", {}, element("span", { class: `grade grade-${row[column.grade]}`, text: row[column.grade] })),
      element("th", { scope: "row" }, title, element("small", { class: "muted", text: `${row[column.source]}/${row[column.latent]}` })),
      element("td", { class: "number", text: number(row[column.f1]) }),
      element("td", { class: "number", text: number(row[column.control_f1_high]) }),
      element("td", { class: "number", text: percent(row[column.fire_rate]) }),
      element("td", { class: "number", text: row[column.domain_ratio] === null ? "domain only" : number(row[column.domain_ratio], 1) }));
  };
  const list = () => {
    const found = sorted(data.rows.filter(fits));
    find("rows").replaceChildren(...found.slice(0, MOST_ROWS).map(line));
    const shown = Math.min(found.length, MOST_ROWS);
    find("found").textContent = `${found.length.toLocaleString("en")} features${shown < found.length ? `, the first ${shown} shown` : ""}`;
  };
  // In a notebook the page is a frame without an address of its own: its parts are then remembered here, not in the address.
  const framed = location.protocol === "about:";
  let chosen = "overview";
  const open = (id) => {
    chosen = id;
    if (framed) show();
    else location.hash = id;
  };
  const show = () => {
    const wanted = (framed ? chosen : decodeURIComponent(location.hash.slice(1))) || "overview";
    const part = parts.find((one) => one.id === wanted) || parts[0];
    for (const one of parts) one.hidden = one !== part;
    for (const link of document.querySelectorAll("nav.tabs a")) {
      const own = link.getAttribute("href") === `#${part.id}` || (part.classList.contains("feature-part") && link.getAttribute("href") === "#features");
      if (own) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    window.scrollTo(0, 0);
  };
  const step = (by) => {
    const pages = parts.filter((one) => one.classList.contains("feature-part"));
    const at = pages.findIndex((one) => !one.hidden);
    const next = pages[Math.max(0, at + by)];
    if (at >= 0 && next) open(next.id);
  };

  for (const control of controls) control.addEventListener("input", list);
  find("filters").addEventListener("submit", (event) => event.preventDefault());
  window.addEventListener("hashchange", show);
  document.addEventListener("click", (event) => {
    const link = framed ? event.target.closest("a[href^='#']") : null;
    if (!link) return;
    event.preventDefault();
    open(link.getAttribute("href").slice(1));
  });
  document.addEventListener("keydown", (event) => {
    const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLSelectElement;
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      open("features");
      show();
      controls[0].focus();
    } else if (event.key === "j") step(1);
    else if (event.key === "k") step(-1);
  });
  find("filters").hidden = false;
  find("plain-list").remove();
  find("list").hidden = false;
  list();
  show();
})();
