"use strict";
// Comparison of two runs: their curves side by side, and what differs.

class Compare {
  constructor(section, rows) {
    this.section = section;
    this.rows = rows;
    this.selects = [...section.querySelectorAll("select[data-run]")];
    this.metric = section.querySelector("[name=compare-metric]");
    this.logY = section.querySelector("[name=compare-logy]");
    this.table = section.querySelector("tbody");
    this.hosts = [...section.querySelectorAll(".side")];
    this.charts = [];
    this.selects.forEach((select, side) => {
      select.append(...DATA.runs.map((run) => element("option", { value: run.name }, run.name)));
      select.selectedIndex = Math.min(side, DATA.runs.length - 1);
    });
    for (const name of metricNames(DATA.runs)) {
      this.metric.append(element("option", { value: name }, metricTitle(name)));
    }
    for (const control of section.querySelectorAll("select, input")) {
      control.addEventListener("change", () => this.draw());
    }
  }

  choose(runs) {
    runs.forEach((run, side) => { this.selects[side].value = run.name; });
    this.draw();
    const heading = this.section.querySelector("h2");
    heading.focus();
    heading.scrollIntoView();
  }

  draw() {
    const runs = this.selects.map((select) => DATA.byName.get(select.value));
    const metric = this.metric.value;
    const splits = new Set(Object.keys(SPLITS));
    const lines = runs.map((run, side) => (metric
      ? runLines([run], metric, { splits, smoothing: 0, colorOf: () => curveColor(side ? 3 : 2) })
      : []));
    const values = lines.flat().flatMap((line) => line.values);
    const logY = this.logY.checked;
    const range = logY ? null : yRange(values);
    const last = Math.max(0, ...lines.flat().map((line) => line.steps[line.steps.length - 1]));
    for (const chart of this.charts) chart.destroy();
    this.charts = runs.map((run, side) => {
      this.section.querySelectorAll(".side-title")[side].textContent = `${run.name} (${run.state})`;
      return new Chart(this.hosts[side], lines[side], { logY, range, last, group: "compare",
        yTitle: metricTitle(metric), height: 260,
        label: `${metricTitle(metric)} of ${run.name} against steps` });
    });
    this.drawTable(runs);
  }

  drawTable(runs) {
    const [a, b] = runs.map((run) => this.rows.values[run.index]);
    const names = [...new Set([...a.keys(), ...b.keys()])].filter((name) => name !== "run");
    const isField = (name) => DATA.fields.includes(name);
    const rows = names.filter((name) => !isField(name) && a.get(name) !== b.get(name))
      .map((name) => [this.rows.titles.get(name), a.get(name), b.get(name)]);
    DATA.fields.forEach((field, index) => {
      const pair = runs.map((run) => run.fields[index]);
      if (pair[0] !== pair[1]) rows.push([field, ...pair]);
    });
    const header = (text) => element("th", { scope: "row" }, text);
    this.table.replaceChildren(...rows.map(([name, ...pair]) => element("tr",
      { class: isField(name) ? "field" : "" }, header(name),
      ...pair.map((text) => element("td", {}, text || "")))));
    [...this.section.querySelectorAll("thead th")].slice(1).forEach((cell, side) => {
      cell.textContent = runs[side].name;
    });
    this.section.querySelector(".wide").hidden = !rows.length;
    const fields = rows.filter(([name]) => isField(name)).length;
    this.section.querySelector(".note").textContent = runs[0] === runs[1]
      ? "Choose two different runs."
      : `${fields} config field${fields === 1 ? "" : "s"} differ${fields === 1 ? "s" : ""}.`;
  }
}
