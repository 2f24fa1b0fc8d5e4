"use strict";
// Charts: uPlot with zoom, hover values, and the keyboard.

const MAX_TOOLTIP_LINES = 12;
const MAX_FOCUSED_LINES = 60; // with more, drawing them again at every move would be slow
const MAX_POINTS_SHOWN = 60;

/** Returns the index of the element of a rising list that is nearest to `value`. */
function nearestIndex(list, value) {
  let low = 0;
  let high = list.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low > 0 && value - list[low - 1] <= list[low] - value ? low - 1 : low;
}

/**
 * A chart of lines in a host element.
 *
 * A line is {label, color, dash, width, steps, values, alpha}. `options` are logX, logY, yTitle,
 * height, range ([low, high] of y where all steps are shown), last (smallest end of the steps) and
 * group (charts of a group share the cursor).
 */
class Chart {
  constructor(host, lines, options) {
    this.host = host;
    this.lines = lines;
    this.options = options;
    this.canvas = element("div", { class: "canvas", tabindex: "0", role: "group" });
    this.tooltip = element("div", { class: "tooltip", hidden: true, "aria-hidden": "true" });
    this.readout = element("p", { class: "readout weak", "aria-live": "polite" });
    this.canvas.setAttribute("aria-label",
      `${options.label}. Left and right arrow keys read values, plus and minus zoom, 0 shows all.`);
    host.replaceChildren(this.buttons(), this.canvas, this.readout);
    this.draw();
    this.canvas.append(this.tooltip);
    this.canvas.addEventListener("keydown", (event) => this.onKey(event));
    this.canvas.addEventListener("blur", () => this.hideTooltip());
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(host);
  }

  destroy() {
    this.observer.disconnect();
    this.plot.destroy();
  }

  buttons() {
    const button = (text, label, action) => {
      const node = element("button", { type: "button", "aria-label": label, title: label }, text);
      node.addEventListener("click", action);
      return node;
    };
    return element("div", { class: "zoom" },
      button("+", "Zoom in", () => this.zoom(0.5)),
      button("−", "Zoom out", () => this.zoom(2)),
      button("All", "All steps", () => this.reset()));
  }

  draw() {
    const { logX, logY } = this.options;
    this.lines = this.lines.map((line) => positive(line, logX, logY)).filter((l) => l.steps.length);
    const tables = this.lines.map((line) => [line.steps, line.values]);
    const data = tables.length ? uPlot.join(tables) : [[0]];
    const indices = new Map(data[0].map((step, index) => [step, index]));
    for (const line of this.lines) line.indices = line.steps.map((step) => indices.get(step));
    this.full = [data[0][0], data[0][data[0].length - 1]];
    if (!logX) this.full[0] = 0;
    if (this.options.last) this.full[1] = Math.max(this.full[1], this.options.last);
    if (this.full[0] === this.full[1]) this.full[1] += 1;
    this.plot = new uPlot(this.plotOptions(), data, this.canvas);
    this.reset();
  }

  plotOptions() {
    const axis = { stroke: cssColor("text"), grid: { stroke: cssColor("line"), width: 1 },
      ticks: { stroke: cssColor("line"), width: 1 }, font: "12px system-ui, sans-serif",
      labelFont: "12px system-ui, sans-serif" };
    const { logX, logY, yTitle, group } = this.options;
    return {
      width: this.width(), height: this.options.height, legend: { show: false },
      scales: { x: { time: false, distr: logX ? 3 : 1 },
        y: { distr: logY ? 3 : 1 } },
      axes: [
        { ...axis, label: "steps", labelSize: 18, size: 34,
          values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : formatStep(tick))) },
        { ...axis, label: yTitle, labelSize: 18, size: 62,
          values: (_, ticks) => ticks.map((tick) => (tick === null ? "" : formatValue(tick))) },
      ],
      series: [{}, ...this.lines.map((line) => ({
        label: line.label, stroke: line.color, dash: line.dash, width: line.width,
        alpha: line.alpha, spanGaps: true,
        points: { show: line.isRaw && line.steps.length <= (line.isThin ? 1 : MAX_POINTS_SHOWN), size: 5,
          fill: line.color },
      }))],
      focus: { alpha: this.lines.length <= MAX_FOCUSED_LINES ? 0.25 : 1 },
      cursor: {
        y: false, focus: { prox: 40 }, points: { one: true, size: 8 },
        drag: { x: true, y: true, uni: 40, dist: 5 },
        bind: { dblclick: () => () => this.reset() },
        dataIdx: (_, series, index, step) => this.dataIndex(series, index, step),
        ...(group ? { sync: { key: group, setSeries: false } } : {}),
      },
      hooks: {
        setCursor: [(plot) => this.onCursor(plot)],
        setSeries: [(plot, series) => { this.focused = series; this.onCursor(plot); }],
      },
    };
  }

  dataIndex(series, index, step) {
    if (series === 0) return index;
    const line = this.lines[series - 1];
    if (step < line.steps[0] || step > line.steps[line.steps.length - 1]) {
      const end = step < line.steps[0] ? 0 : line.steps.length - 1;
      const isNear = Math.abs(line.steps[end] - step) * 50 < this.full[1] - this.full[0];
      return isNear ? line.indices[end] : null;
    }
    return line.indices[nearestIndex(line.steps, step)];
  }

  /** Returns [line, step, value] of each line at a step, raw lines only. */
  valuesAt(step) {
    const rows = [];
    this.lines.forEach((line, number) => {
      if (!line.isRaw || this.dataIndex(number + 1, 0, step) === null) return;
      const index = nearestIndex(line.steps, step);
      rows.push([line, line.steps[index], line.values[index]]);
    });
    return rows;
  }

  onCursor(plot) {
    const { left, top } = plot.cursor;
    if (left === undefined || left < 0 || !this.lines.length) {
      if (document.activeElement !== this.canvas) this.hideTooltip();
      return;
    }
    this.showTooltip(plot.posToVal(left, "x"), left, top, this.lines[(this.focused || 0) - 1]);
  }

  showTooltip(step, left, top, focused) {
    let rows = this.valuesAt(step);
    if (rows.length > MAX_TOOLTIP_LINES) rows = rows.filter(([line]) => line.key === focused?.key);
    rows.sort((a, b) => b[2] - a[2]);
    this.tooltip.hidden = !rows.length;
    if (!rows.length) return;
    this.tooltip.replaceChildren(
      element("div", {}, `step ${formatStep(rows[0][1])}`),
      ...rows.map(([line, at, value]) => {
        const swatch = element("span", { class: "swatch" });
        swatch.style.background = line.color;
        const late = at === rows[0][1] ? "" : ` at ${formatStep(at)}`;
        return element("div", { class: line === focused ? "focused" : "" }, swatch,
          `${line.label}: ${formatValue(value)}${late}`);
      }));
    const { over } = this.plot;
    const isRight = left > over.clientWidth / 2;
    const x = over.offsetLeft + left + (isRight ? -12 : 12);
    this.tooltip.style.left = `${Math.max(0, x)}px`;
    this.tooltip.style.top = `${over.offsetTop + Math.max(0, Math.min(top, over.clientHeight - 40))}px`;
    this.tooltip.style.transform = isRight ? "translateX(-100%)" : "";
  }

  hideTooltip() {
    this.tooltip.hidden = true;
  }

  range() {
    const { min, max } = this.plot.scales.x;
    return [min, max];
  }

  zoom(factor) {
    const [from, to] = this.options.logX ? this.range().map(Math.log) : this.range();
    const middle = (from + to) / 2;
    const half = ((to - from) / 2) * factor;
    const back = this.options.logX ? Math.exp : (value) => value;
    const low = Math.max(this.full[0], back(middle - half));
    const high = Math.min(this.full[1], back(middle + half));
    this.plot.setScale("x", { min: low, max: high });
    this.readout.textContent = `Steps ${formatStep(low)} to ${formatStep(high)}.`;
  }

  reset() {
    const { range } = this.options;
    this.plot.batch(() => {
      this.plot.setScale("x", { min: this.full[0], max: this.full[1] });
      if (range) this.plot.setScale("y", { min: range[0], max: range[1] });
    });
    this.readout.textContent = "";
  }

  onKey(event) {
    const actions = {
      "+": () => this.zoom(0.5), "=": () => this.zoom(0.5), "-": () => this.zoom(2),
      0: () => this.reset(), Escape: () => this.hideTooltip(),
      ArrowLeft: () => this.move(-1), ArrowRight: () => this.move(1),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** Moves the cursor by a fiftieth of the shown steps, and reads the values there. */
  move(direction) {
    const [from, to] = this.range();
    const at = this.keyStep === undefined ? from : this.keyStep + (direction * (to - from)) / 50;
    this.keyStep = Math.min(to, Math.max(from, at));
    const left = this.plot.valToPos(this.keyStep, "x");
    this.plot.setCursor({ left, top: this.plot.over.clientHeight / 2 }, false);
    const rows = this.valuesAt(this.keyStep);
    this.showTooltip(this.keyStep, left, 10, this.lines[(this.focused || 0) - 1]);
    const texts = rows.slice(0, 6).map(([line, , value]) => `${line.label} ${formatValue(value)}`);
    const more = rows.length > 6 ? `; and ${rows.length - 6} more curves` : "";
    this.readout.textContent = `Step ${formatStep(this.keyStep)}: ${texts.join("; ")}${more}.`;
  }

  width() {
    return Math.max(200, this.host.clientWidth - 2);
  }

  resize() {
    if (Math.abs(this.plot.width - this.width()) > 1) {
      this.plot.setSize({ width: this.width(), height: this.options.height });
    }
  }
}

/** Returns a line without the points that a logarithmic axis cannot show. */
function positive(line, logX, logY) {
  if (!logX && !logY) return line;
  const kept = line.steps.map((step, i) => (!logX || step > 0) && (!logY || line.values[i] > 0));
  const keep = (list) => list.filter((_, index) => kept[index]);
  return { ...line, steps: keep(line.steps), values: keep(line.values) };
}

/** Returns a range of y for values that a linear axis shows from 0; null for other values. */
function yRange(values) {
  let high = 0;
  for (const value of values) {
    if (value < 0) return null;
    high = Math.max(high, value);
  }
  return values.length && high > 0 ? [0, high * 1.08] : null;
}
