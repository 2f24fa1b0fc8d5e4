"use strict";
// Starts the interactive parts. Without scripts, the page shows tables and static figures.

/** Sets the colors: 'auto' follows the system. */
function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function startPage() {
  const theme = document.querySelector("[name=theme]");
  theme.value = storage.get("flaxres-report-theme") || "auto";
  if (!theme.value) theme.value = "auto";
  setTheme(theme.value);
  for (const node of document.querySelectorAll("[data-script]")) node.hidden = false;
  for (const node of document.querySelectorAll("[data-static]")) node.hidden = true;

  const tables = [...document.querySelectorAll("table.runs")];
  const rows = new RunRows(tables);
  const swatches = DATA.runs.map(() => element("span", { class: "swatch" }));
  const boxes = DATA.runs.map((run) => element("input", { type: "checkbox", value: run.name }));
  DATA.runs.forEach((run, index) => {
    const cell = rows.rows[index].map((row) => row.cells[0])[0];
    if (cell) cell.replaceChildren(element("label", {}, boxes[index], swatches[index], run.name));
  });
  for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);

  const curves = new Curves(document.getElementById("curves"), (colorOf) => {
    DATA.runs.forEach((run, index) => { swatches[index].style.background = colorOf(run); });
  });
  const section = document.getElementById("compare");
  const compare = section && new Compare(section, rows);

  const filter = document.querySelector("[name=filter]");
  const state = document.querySelector("[name=state]");
  const compareButton = document.querySelector("[name=compare-ticked]");
  const ticked = () => DATA.runs.filter((_, index) => boxes[index].checked);
  const update = () => {
    const matching = rows.filter(filter.value, state.value);
    const chosen = ticked();
    document.getElementById("count").textContent =
      `${matching.length} of ${DATA.runs.length} runs match, ${chosen.length} ticked.`;
    if (compareButton) compareButton.disabled = chosen.length !== 2;
    const drawn = matching.filter((run) => !chosen.length || chosen.includes(run));
    curves.draw(drawn);
  };
  filter.addEventListener("input", debounce(update, 120));
  state.addEventListener("change", update);
  for (const box of boxes) box.addEventListener("change", update);
  compareButton?.addEventListener("click", () => compare.choose(ticked()));
  document.querySelector("[name=untick]").addEventListener("click", () => {
    for (const box of boxes) box.checked = false;
    update();
  });

  const redraw = () => {
    curves.draw();
    compare?.draw();
  };
  theme.addEventListener("change", () => {
    storage.set("flaxres-report-theme", theme.value);
    setTheme(theme.value);
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  update();
  compare?.draw();
}

startPage();
