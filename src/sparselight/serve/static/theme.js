// Sets the chosen colors before the first paint; without a choice the page follows the system.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("sparselight-theme"); } catch { /* storage may be closed: follow the system */ }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
