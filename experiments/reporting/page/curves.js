"use strict";
// The chart of all runs: choice of metric, scales, smoothing and colors.

const RAW_ALPHA = 0.35; // of raw curves behind smoothed ones
const SETTLED = 0.1; // fraction of the steps after which values set the scale, as in the figures

/** Returns the lines of some runs for a metric. `colorOf` maps a run to a color. */
function runLines(runs, metric, { splits, smoothing, colorOf, many }) {
  const lines = [];
  for (const run of runs) {
    for (const [name, [stepsIndex, values, meanIndex, means]] of Object.entries(run.curves)) {
      const [base, split] = splitMetric(name);
      if (base !== metric || (split && !splits.has(split))) continue;
      const steps = DATA.steps[stepsIndex];
      const line = { label: split ? `${run.name} ${split}` : run.name, key: run.name, steps, values,
        color: colorOf(run), dash: SPLITS[split] || [], isRaw: true, isThin: many,
        width: (split === "train" ? 1 : 1.8) * (many ? 0.7 : 1), alpha: smoothing ? RAW_ALPHA : 1 };
      lines.push(line);
      if (!smoothing) continue;
      const meanSteps = means ? DATA.steps[meanIndex] : steps;
      const smooth = movingAverage(meanSteps, means || values, smoothing * run.num_steps);
      lines.push({ ...line, steps: meanSteps, values: smooth, alpha: 1, isRaw: false });
    }
  }
  return lines;
}

/** Returns the range of values after the first tenth of the steps. */
function settledRange(lines) {
  const last = Math.max(...lines.map((line) => line.steps[line.steps.length - 1]));
  return yRange(lines.flatMap((l) => l.values.filter((_, i) => l.steps[i] > SETTLED * last)));
}

/** Section with the curves of the runs that match the filter, or of those that are ticked. */
class Curves {
  constructor(section, onColors) {
    this.section = section;
    this.onColors = onColors;
    this.hidden = new Set(); // groups that the legend hides
    this.host = section.querySelector(".chart");
    this.legend = section.querySelector(".legend");
    this.note = section.querySelector(".note");
    this.control = (name) => section.querySelector(`[name=${name}]`);
    for (const name of metricNames(DATA.runs)) {
      this.control("metric").append(element("option", { value: name }, metricTitle(name)));
    }
    this.fillColorChoices();
    for (const control of section.querySelectorAll("select, input")) {
      control.addEventListener("change", () => this.draw());
    }
    this.control("color").addEventListener("change", () => this.hidden.clear(), true);
  }

  fillColorChoices() {
    const select = this.control("color");
    const count = (values) => new Set(values).size;
    const hasVariants = count(DATA.runs.map((run) => run.variant)) < DATA.runs.length;
    if (hasVariants) select.append(element("option", { value: "variant" }, "model"));
    select.append(element("option", { value: "name" }, "run"));
    DATA.fields.forEach((field, index) => {
      const number = count(DATA.runs.map((run) => run.fields[index]));
      if (number > 1 && number <= 2 * MAX_COLORS) {
        select.append(element("option", { value: String(index) }, field));
      }
    });
  }

  /** Returns the value by which a run is colored. */
  group(run) {
    const by = this.control("color").value;
    return by === "variant" || by === "name" ? run[by] : run.fields[Number(by)];
  }

  /** Returns the groups of all runs, in order, so that colors do not depend on the filter. */
  groups() {
    const groups = [...new Set(DATA.runs.map((run) => this.group(run)))];
    const isField = !["variant", "name"].includes(this.control("color").value);
    return isField ? groups.sort((a, b) => compareValues(a, b, 1)) : groups;
  }

  settings() {
    const metric = this.control("metric").value;
    const names = Object.keys(SPLITS).filter((split) => this.control(split).checked);
    return { metric, splits: new Set(names), smoothing: Number(this.control("smoothing").value),
      logX: this.control("logx").checked, logY: this.control("logy").checked };
  }

  /** Draws the runs; without an argument, those of the last call. */
  draw(runs = this.runs) {
    this.runs = runs;
    const groups = this.groups();
    const colors = new Map(groups.map((group, index) => [group, curveColor(index)]));
    const colorOf = (run) => colors.get(this.group(run));
    this.onColors(colorOf);
    const shown = runs.filter((run) => !this.hidden.has(this.group(run)));
    const { metric, ...settings } = this.settings();
    const many = shown.length > 24;
    const isCut = this.control("cut").checked && !settings.logY;
    const lines = metric ? runLines(shown, metric, { ...settings, colorOf, many }) : [];
    this.showSplits(metric);
    this.drawLegend(groups, colors);
    const empty = lines.length ? "" : " No curves to draw.";
    const zero = settings.logY ? " Values of 0 are not drawn on a log scale." : "";
    const drawn = new Set(lines.map((line) => line.key)).size;
    this.note.textContent = `${drawn} of ${DATA.runs.length} runs drawn.${empty}${zero}`;
    this.chart?.destroy();
    this.chart = new Chart(this.host, lines, { ...settings, yTitle: metricTitle(metric),
      range: isCut && lines.length ? settledRange(lines) : null,
      height: Math.round(Math.max(280, Math.min(460, window.innerHeight * 0.55))),
      label: `${metricTitle(metric)} against steps, ${drawn} runs` });
  }

  /** Shows only the splits for which the metric was recorded. */
  showSplits(metric) {
    const names = new Set(DATA.runs.flatMap((run) => Object.keys(run.curves)));
    for (const split of Object.keys(SPLITS)) {
      this.control(split).closest("label").hidden = !names.has(`${split}_${metric}`);
    }
  }

  drawLegend(groups, colors) {
    const runs = this.runs.map((run) => this.group(run));
    const present = groups.filter((group) => runs.includes(group));
    this.legend.hidden = present.length > 2 * MAX_COLORS || present.length < 2;
    if (this.legend.hidden) return;
    const focused = this.legend.contains(document.activeElement) && document.activeElement.value;
    this.legend.replaceChildren(...present.map((group) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = colors.get(group);
      const button = element("button", { type: "button", value: group,
        "aria-pressed": String(!this.hidden.has(group)) }, swatch, group || "(none)");
      button.addEventListener("click", () => {
        if (!this.hidden.delete(group)) this.hidden.add(group);
        this.draw();
      });
      return button;
    }));
    if (focused !== false) {
      [...this.legend.children].find((button) => button.value === focused)?.focus();
    }
  }
}
