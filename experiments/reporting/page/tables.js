"use strict";
// Tables: sort by a column, filter rows of runs.

/** Returns what a cell is sorted by: a number at its start, otherwise its text; null if empty. */
function sortValue(cell, isNumber) {
  const text = cell.textContent.trim();
  if (!text) return null;
  if (!isNumber) return text;
  const number = parseFloat(text.replaceAll(",", ""));
  return Number.isNaN(number) ? null : number;
}

/** Compares values for a sort; empty cells come last in either direction. */
function compareValues(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return direction * (a - b);
  return direction * String(a).localeCompare(String(b), "en", { numeric: true });
}

/** Makes the columns of a table sortable: each header becomes a button. */
function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = element("button", { type: "button", class: "sort" }, ...header.childNodes);
    header.replaceChildren(button);
    header.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const order = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      for (const other of headers) other.setAttribute("aria-sort", "none");
      header.setAttribute("aria-sort", order);
      sortRows(table, column, order === "ascending" ? 1 : -1);
    });
  });
}

function sortRows(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const isText = rows.some((row) => {
    const text = row.cells[column].textContent.trim();
    return text && Number.isNaN(parseFloat(text.replaceAll(",", "")));
  });
  const values = new Map(rows.map((row) => [row, sortValue(row.cells[column], !isText)]));
  rows.sort((a, b) => compareValues(values.get(a), values.get(b), direction));
  body.append(...rows);
}

/** The rows of the runs in all tables, and the values that a filter compares. */
class RunRows {
  constructor(tables) {
    this.rows = DATA.runs.map(() => []);
    this.values = DATA.runs.map(() => new Map());
    this.titles = new Map();
    for (const table of tables) this.addTable(table);
    this.texts = DATA.runs.map((run, index) => this.filterText(run, index));
  }

  addTable(table) {
    const names = [...table.tHead.rows[0].cells].map((cell) => {
      this.titles.set(slug(cell.textContent), cell.textContent);
      return slug(cell.textContent);
    });
    for (const row of table.tBodies[0].rows) {
      const run = DATA.byName.get(row.cells[0].textContent);
      if (!run) continue;
      this.rows[run.index].push(row);
      [...row.cells].forEach((cell, column) => {
        this.values[run.index].set(names[column], cell.textContent.trim());
      });
    }
  }

  filterText(run, index) {
    const fields = [...this.values[index]].map(([name, value]) => `${name}=${value}`);
    return [run.name, ...fields].join(" ").toLowerCase();
  }

  /** Hides the rows of runs that do not match; returns the runs that do, in table order. */
  filter(text, state) {
    const tests = text.trim().split(/\s+/).filter(Boolean).map((word) => this.wordTest(word));
    for (const run of DATA.runs) {
      run.matches = (!state || run.state === state) && tests.every((test) => test(run.index));
      for (const row of this.rows[run.index]) row.hidden = !run.matches;
    }
    return DATA.runs.filter((run) => run.matches);
  }

  /** Returns a test for one word: a part of the text, or NAME<NUMBER and the like. */
  wordTest(word) {
    const match = /^([^<>=]+)(<=|>=|<|>|=)(.+)$/.exec(word);
    const name = match && this.fullName(slug(match[1]));
    if (!name) return (index) => this.texts[index].includes(word.toLowerCase());
    const number = parseFloat(match[3]);
    return (index) => {
      const value = this.values[index].get(name) || "";
      if (match[2] === "=" && value.toLowerCase() === match[3].toLowerCase()) return true;
      const given = parseFloat(value.replaceAll(",", ""));
      return { "<": given < number, ">": given > number, "<=": given <= number,
        ">=": given >= number, "=": given === number }[match[2]];
    };
  }

  /** Returns the name of a column that a word names, such as 'depth' for 'model.depth'. */
  fullName(name) {
    const names = [...new Set(this.values.flatMap((values) => [...values.keys()]))];
    return names.find((n) => n === name) || names.find((n) => n.endsWith(`.${name}`));
  }
}

/** Returns 'test_error' for 'test error %'. */
function slug(title) {
  return title.toLowerCase().replace(/[%,]/g, "").trim().replace(/\s+/g, "_");
}
