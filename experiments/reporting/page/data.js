"use strict";
// Data of the report, colors, and small functions that the other scripts use.

const DATA = JSON.parse(document.getElementById("report-data").textContent);
// Dashes, as in the other figures; ema_: metrics of the average weights.
const SPLITS = {
  train: [6, 4], test: [], validation: [2, 3], ema_test: [8, 3, 2, 3], ema_validation: [2, 6],
};
const METRIC_TITLES = {
  error: "error (%)", loss: "loss", learning_rate: "learning rate", images_per_second: "images/s",
  data_wait_percent: "time waiting for data (%)",
};
const MAX_COLORS = 7;

/** Decodes differences of steps. */
function decodeSteps(differences) {
  let step = 0;
  return differences.map((difference) => (step += difference));
}

DATA.steps = DATA.steps.map(decodeSteps);
DATA.runs.forEach((run, index) => { run.index = index; });
DATA.byName = new Map(DATA.runs.map((run) => [run.name, run]));

/** Splits 'train_error' into ['error', 'train']; other names have no split. */
function splitMetric(name) {
  const match = /^((?:ema_)?(?:train|test|validation))_(.+)$/.exec(name);
  return match ? [match[2], match[1]] : [name, ""];
}

/** Returns the metrics of all runs without their splits; errors and losses first. */
function metricNames(runs) {
  const names = new Set(["error", "loss"]);
  const found = new Set();
  for (const run of runs) for (const name of Object.keys(run.curves)) found.add(splitMetric(name)[0]);
  for (const name of found) names.add(name);
  return [...names].filter((name) => found.has(name));
}

function metricTitle(name) {
  return METRIC_TITLES[name] || name.replaceAll("_", " ");
}

/** Creates an element; children are elements or text. */
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function cssColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Returns one of seven colors; more curves repeat them. */
function curveColor(number) {
  return cssColor(`curve-${number % MAX_COLORS}`);
}

/** Formats a value with up to five significant digits. */
function formatValue(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2);
  return size >= 1e4 ? Math.round(value).toLocaleString("en-US") : String(+value.toPrecision(4));
}

function formatStep(step) {
  return Math.round(step).toLocaleString("en-US");
}

/** Returns a moving average over `width` steps around each point. */
function movingAverage(steps, values, width) {
  const sums = [0];
  for (const value of values) sums.push(sums[sums.length - 1] + value);
  let low = 0;
  let high = 0;
  return steps.map((step) => {
    while (steps[low] < step - width / 2) low++;
    while (high < steps.length && steps[high] <= step + width / 2) high++;
    return (sums[high] - sums[low]) / (high - low);
  });
}

/** Calls `action` once, `milliseconds` after the last call. */
function debounce(action, milliseconds) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

/** A value that the browser keeps between visits, if it can. */
const storage = {
  get(name) { try { return localStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { /* not allowed */ } },
};
