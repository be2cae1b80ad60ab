"use strict";
// The page's behaviour: which board is shown, sorting and filtering tables, what a cell tells, copies of tables, and all
// of that in the address. It asks nothing of any server. charts.js draws.
const vtabReport = (() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const shown = $("#shown"), tip = $("#tip"), select = $("#board");
  const MOST = 200; // rows that are shown at once: more take seconds to lay out
  const redraw = []; // what happens when the theme or the board changes

  // The address holds what is shown: #board=knn&sort=dtd&dir=ascending&name=vit&theme=dark
  const FIELDS = ["name", "method", "family", "size"];
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const remember = (name, value) => {
    if (value) state.set(name, value);
    else state.delete(name);
    history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
  };

  // What many models would make slow to open waits as text: boards that are not shown, what their cells tell, and the
  // rows of long tables after the first 200.
  const parsed = (html) => {
    const holder = document.createElement("template");
    holder.innerHTML = html;
    return holder.content;
  };
  const told = (board) => (data.cells ??= {})[board] ??= JSON.parse($(`#cells-${CSS.escape(board)}`).textContent);
  const later = (table) => $("script.later", table);
  const whole = (table) => {
    const text = later(table);
    if (!text) return;
    const body = table.tBodies[0];
    body.insertBefore(parsed(text.textContent), [...body.rows].find((row) => row.classList.contains("below")) ?? null);
    text.remove();
    original.delete(table);
    const rest = table.closest(".cued").nextElementSibling;
    if (rest?.matches(".rest")) rest.remove(); // of a heat map it is another one, see limit
  };

  // Theme: the system's, until somebody chooses another one.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const applyTheme = () => {
    root.dataset.theme = state.get("theme") ?? (system.matches ? "dark" : "light");
    redraw.forEach((draw) => draw());
  };
  system.addEventListener("change", applyTheme);
  $("#theme").addEventListener("click", () => {
    remember("theme", root.dataset.theme === "dark" ? "light" : "dark");
    applyTheme();
  });

  // Sorting. A column is sorted downwards first where it holds numbers, then upwards, then as it was; rows without a value
  // stay at the end.
  const heads = (table) => [...table.tHead.rows].at(-1).cells;
  const name = (table, column) => heads(table)[column].textContent.trim();
  const key = (row, column, table) => {
    if (!table.dataset.heat) return row.cells[column].dataset.v;
    if (column === 0) return row.cells[0].textContent;
    return told(table.dataset.heat).values[row.dataset.i][column - 1] ?? "";
  };
  const original = new WeakMap(); // table -> its rows and sorted column as they came
  const asItCame = (table) => {
    if (!original.has(table)) {
      const sorted = [...heads(table)].findIndex((th) => th.ariaSort);
      original.set(table, { rows: [...table.tBodies[0].rows], sorted });
    }
    return original.get(table);
  };
  const mark = (table, column, direction) => {
    for (const other of heads(table)) other.removeAttribute("aria-sort");
    if (column >= 0) heads(table)[column].setAttribute("aria-sort", direction);
  };
  const sortBy = (table, column, direction) => {
    if (direction) whole(table);
    else if (later(table)) return; // as it came
    const before = asItCame(table), body = table.tBodies[0];
    if (!direction) {
      body.append(...before.rows);
      mark(table, before.sorted, "descending");
    } else {
      const rows = [...body.rows], fixed = rows.filter((row) => row.classList.contains("below"));
      const keys = new Map(rows.map((row) => [row, key(row, column, table)]));
      const numeric = isNumeric(table, column);
      rows.sort((a, b) => {
        const x = keys.get(a), y = keys.get(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = numeric ? Number(x) - Number(y) : String(x).localeCompare(String(y), undefined, { numeric: true });
        return direction === "descending" ? -order : order;
      });
      body.append(...rows.filter((row) => !fixed.includes(row)), ...fixed);
      mark(table, column, direction);
    }
    if (table.dataset.heat) limit(table);
  };
  const isNumeric = (table, column) => {
    const filled = [...table.tBodies[0].rows].map((row) => key(row, column, table)).filter((v) => v !== "");
    return filled.length > 0 && filled.every((v) => !Number.isNaN(Number(v)));
  };
  const sort = (th) => {
    const table = th.closest("table"), column = th.cellIndex, now = th.getAttribute("aria-sort");
    whole(table);
    const cycle = isNumeric(table, column) ? ["descending", "ascending"] : ["ascending", "descending"];
    const place = cycle.indexOf(now);
    // The column that a table comes sorted by begins with the other direction.
    const next = place < 0 ? cycle[0] : cycle[place + 1] ?? null;
    sortBy(table, column, next);
    if (table.dataset.heat) {
      remember("sort", next && name(table, column));
      remember("dir", next);
      say(table);
    }
  };

  // Filtering.
  const sorted = (table) => [...heads(table)].find((th) => th.hasAttribute("aria-sort"));
  const say = (table) => {
    const rows = [...table.tBodies[0].rows], waiting = Number(later(table)?.dataset.rows ?? 0), th = sorted(table);
    const left = waiting + rows.filter((row) => !("out" in row.dataset)).length;
    enter(rows.find((row) => !row.hidden)?.cells[1]);
    const by = th ? `, sorted by ${th.textContent.trim()}, ${th.getAttribute("aria-sort")}` : "";
    const section = table.closest("section");
    $("output", section).value = `${left} of ${waiting + rows.length} models${by}`;
    $(".empty", section).hidden = left > 0;
  };
  // Of very many models the first are shown; a button shows all.
  const limit = (table) => {
    const rest = $(".rest", table.closest("section")), all = "all" in table.dataset;
    let there = 0;
    for (const row of table.tBodies[0].rows) row.hidden = "out" in row.dataset || (++there > MOST && !all);
    const waiting = Number(later(table)?.dataset.rows ?? 0);
    there += waiting;
    rest.hidden = all || (there <= MOST && !waiting);
    $("button", rest).textContent = `Show all ${there.toLocaleString("en")} models`;
  };
  const filter = (form) => {
    const table = $("table.heat", form.closest("section"));
    const text = form.elements.name.value.trim().toLowerCase();
    const wanted = FIELDS.slice(1).map((k) => [k, form.elements[k]?.value ?? ""]).filter(([, v]) => v);
    if (text || wanted.length) whole(table);
    for (const row of table.tBodies[0].rows) {
      const named = `${row.dataset.label} ${row.cells[0].textContent}`.toLowerCase();
      const passes = named.includes(text) && wanted.every(([k, v]) => row.dataset[k] === v);
      if (passes) delete row.dataset.out;
      else row.dataset.out = "";
    }
    limit(table);
    for (const field of FIELDS) remember(field, form.elements[field]?.value);
    say(table);
  };

  // What a cell of the heat map tells.
  const percent = (v) => (100 * v).toFixed(1);
  const tell = (cell) => {
    const table = cell.closest("table"), cells = told(table.dataset.heat), i = cell.parentElement.dataset.i;
    const column = cell.cellIndex - 1, j = column - cells.n_means;
    const value = cells.values[i][column], low = cells.low[i][column];
    const lines = [`${cell.parentElement.dataset.label}, ${name(table, cell.cellIndex)}`];
    const head = value === null ? (j < 0 ? "lacks tasks, so it has no mean" : "no result") : `${percent(value)} %`;
    if (low !== null) lines.push(`95 % interval ${percent(low)} to ${percent(cells.high[i][column])} %`);
    else if (value !== null) lines.push(j < 0 ? "no interval of this mean" : "no interval: the number of test examples is not known");
    if (j >= 0 && value !== null) {
      if (cells.n[i][j]) lines.push(`${cells.n[i][j].toLocaleString("en")} examples`);
      if (cell.classList.contains("floor")) lines.push("not above chance or majority");
      if (cells.chosen[i][j]) lines.push(`chosen: ${cells.chosen[i][j]}`);
      if (cells.sources[i]) lines.push(`published: ${cells.sources[i]}`);
      if (cells.files[i][j]) lines.push(cells.files[i][j]);
    }
    tip.replaceChildren(Object.assign(document.createElement("strong"), { textContent: head }));
    for (const line of lines) tip.append(Object.assign(document.createElement("div"), { textContent: line }));
    tip.hidden = false;
    place(cell);
    cell.setAttribute("aria-describedby", "tip");
  };
  const place = (cell) => {
    const box = cell.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - size.width / 2), innerWidth - size.width - 8);
    const above = box.top - size.height - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
  };
  const described = () => $("[aria-describedby=tip]");
  const hush = () => {
    tip.hidden = true;
    described()?.removeAttribute("aria-describedby");
  };
  const isCell = (element) => element instanceof HTMLTableCellElement && element.matches(".heat tbody td");
  const isHead = (element) => element instanceof HTMLButtonElement && element.matches(".heat thead button");
  // One cell and one heading are where Tab enters the table; arrow keys go on from there.
  const enter = (cell) => {
    $$(".heat td[tabindex]").forEach((other) => other.removeAttribute("tabindex"));
    if (cell) cell.tabIndex = 0;
  };
  const focus = (cell) => {
    enter(cell);
    cell.focus();
  };
  const move = (cell, event) => {
    const rows = [...cell.closest("tbody").rows].filter((row) => !row.hidden);
    let r = rows.indexOf(cell.parentElement), c = cell.cellIndex;
    const last = cell.parentElement.cells.length - 1;
    switch (event.key) {
      case "ArrowUp": r--; break;
      case "ArrowDown": r++; break;
      case "ArrowLeft": c--; break;
      case "ArrowRight": c++; break;
      case "Home": c = 1; break;
      case "End": c = last; break;
      case "Escape": hush(); return;
      default: return;
    }
    event.preventDefault();
    focus(rows[Math.min(Math.max(r, 0), rows.length - 1)].cells[Math.min(Math.max(c, 1), last)]);
  };
  const moveHead = (button, event) => {
    const buttons = $$("button", button.closest("thead")), at = buttons.indexOf(button);
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = buttons[Math.min(Math.max(to, 0), buttons.length - 1)];
    for (const other of buttons) other.tabIndex = other === next ? 0 : -1;
    next.focus();
  };
  document.addEventListener("pointerover", (e) => isCell(e.target) ? tell(e.target) : isCell(document.activeElement) || hush());
  document.addEventListener("focusin", (e) => isCell(e.target) ? tell(e.target) : hush());
  document.addEventListener("keydown", (e) => {
    if (isCell(e.target)) move(e.target, e);
    else if (isHead(e.target)) moveHead(e.target, e);
    else if (e.key === "Escape") hush();
  });
  document.addEventListener("scroll", (e) => {
    const cell = described();
    if (cell && (cell === document.activeElement || cell.matches(":hover"))) place(cell);
    else hush();
    if (e.target instanceof HTMLElement && e.target.matches(".scroll")) cue(e.target);
  }, { capture: true, passive: true });

  // Copies of a table as it is shown: sorted, filtered, an interval in a column of its own.
  const asRows = (table) => {
    whole(table);
    if (table.dataset.heat) limit(table);
    const rows = [[...heads(table)].map((th) => th.textContent.trim())];
    for (const row of [...table.tBodies[0].rows, ...(table.tFoot?.rows ?? [])]) {
      if ("out" in row.dataset) continue;
      const label = row.dataset.label;
      rows.push([...row.cells].map((cell, k) => (k === 0 && label ? label : cell.textContent.replace(/\s+/g, " ").trim())));
    }
    return rows.map((row) => row.map((text) => text.replaceAll("−", "-").replace(/^–$/, "")));
  };
  const quoted = (text) => {
    const safe = /^[=+@\t\r]|^-(?![\d.])/.test(text) ? `'${text}` : text; // no formula for a spreadsheet
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const flash = (button, text) => {
    const before = button.dataset.label ??= button.textContent;
    button.textContent = text;
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  const tableOf = (button) => {
    let element = button.closest(".tools");
    while (element && !element.matches(".cued")) element = element.previousElementSibling;
    return $("table", element);
  };
  const copy = async (button) => {
    const text = asRows(tableOf(button)).map((row) => row.join("\t")).join("\n");
    try {
      await navigator.clipboard.writeText(text);
      flash(button, "Copied");
    } catch {
      flash(button, "The browser does not allow it");
    }
  };
  const download = (button) => {
    const text = asRows(tableOf(button)).map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
    const link = document.createElement("a");
    link.href = `data:text/csv;charset=utf-8,${encodeURIComponent(text)}`;
    link.download = `${button.dataset.csv}.csv`;
    link.click();
  };

  // What lies outside of a table's window is said at its edge.
  const cue = (box) => {
    const right = box.scrollWidth - box.clientWidth - box.scrollLeft > 2, under = box.scrollHeight - box.clientHeight - box.scrollTop > 2;
    const outer = box.parentElement;
    outer.classList.toggle("more-right", right);
    outer.classList.toggle("more-below", under);
    outer.classList.toggle("more-left", box.scrollLeft > 2);
    const table = $("table", box), edge = box.getBoundingClientRect().right;
    if (!table.tHead) return;
    const hidden = right ? [...heads(table)].filter((th) => th.getBoundingClientRect().right > edge + 8).length : 0;
    outer.dataset.more = hidden ? `${hidden} more column${hidden > 1 ? "s" : ""} →` : "";
  };
  const cues = () => $$("main .scroll").forEach(cue);
  addEventListener("resize", cues);
  document.addEventListener("toggle", cues, true);

  const restore = (form) => {
    for (const field of FIELDS) {
      const element = form.elements[field], value = state.get(field) ?? "";
      if (element && (element.tagName === "INPUT" || [...element.options].some((o) => o.value === value))) element.value = value;
    }
  };
  document.addEventListener("click", (e) => {
    const button = e.target.closest("button");
    if (button?.matches("thead button")) sort(button.closest("th"));
    else if (button?.matches("[data-copy]")) copy(button);
    else if (button?.matches("[data-csv]")) download(button);
    else if (button?.matches("button.later")) whole($("table", button.parentElement.previousElementSibling));
    else if (button?.matches(".clear")) {
      const form = $(".filters", button.closest("section"));
      form.reset();
      filter(form);
      form.elements.name.focus();
    } else if (button?.matches(".all")) {
      const table = $("table.heat", button.closest("section"));
      table.dataset.all = "";
      whole(table);
      limit(table);
    } else if (isCell(e.target)) focus(e.target);
    // Links within the page leave what the address says of its state.
    const link = e.target.closest("nav a, .skip");
    const target = link && $(link.getAttribute("href"));
    if (target) {
      e.preventDefault();
      target.scrollIntoView();
      target.tabIndex = -1;
      target.focus({ preventScroll: true });
    }
  });
  document.addEventListener("input", (e) => {
    const form = e.target.closest("#ranking .filters");
    if (form) filter(form);
  });

  // Boards.
  const boards = new Map();
  const show = (which) => {
    hush();
    if (shown.dataset.board !== which) {
      boards.set(shown.dataset.board, [...shown.childNodes]);
      const stored = () => $(`#board-${CSS.escape(which)}`).textContent.replaceAll("<\\/script", "</script");
      const there = boards.get(which) ?? [...parsed(stored()).childNodes];
      shown.replaceChildren(...there);
      shown.dataset.board = which;
    }
    const table = $("table.heat", shown), form = $("#ranking .filters");
    const column = [...heads(table)].findIndex((th) => th.textContent.trim() === state.get("sort"));
    asItCame(table);
    sortBy(table, column, column >= 0 && ["ascending", "descending"].find((d) => d === state.get("dir")));
    restore(form);
    filter(form);
    redraw.forEach((draw) => draw());
    cues();
  };
  select?.addEventListener("change", () => {
    remember("board", select.value === select.options[0].value ? "" : select.value);
    show(select.value);
  });
  if (select && [...select.options].some((o) => o.value === state.get("board"))) select.value = state.get("board");
  else if (select) select.selectedIndex = 0;
  applyTheme();
  if (shown.dataset.board) show(select ? select.value : shown.dataset.board);

  return { data, redraw, whole, $, $$ };
})();
