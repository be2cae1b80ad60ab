"use strict";
// The page's behaviour: which board is shown, sorting and filtering tables, what a cell tells, and when charts are drawn.
// It asks nothing of any server.
const vtabReport = (() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const shown = $("#shown"), tip = $("#tip");
  let plotly = false;

  // Theme: the system's, until somebody chooses another one.
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  const applyTheme = () => {
    root.dataset.theme = chosen ?? (system.matches ? "dark" : "light");
    if (plotly) $$(".plot[data-drawn]").forEach(draw);
  };
  system.addEventListener("change", applyTheme);
  $("#theme").addEventListener("click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    applyTheme();
  });

  // Sorting. A column is sorted downwards first where it holds numbers; rows without a value stay at the end.
  const key = (row, column, table) => {
    const cell = row.cells[column];
    if (!table.dataset.heat) return cell.dataset.v;
    if (column === 0) return cell.textContent;
    const cells = data.cells[table.dataset.heat], j = cells.tasks.indexOf(name(table, column));
    if (j >= 0) return cells.values[row.dataset.i][j] ?? "";
    return name(table, column) === "mean" ? cells.mean[row.dataset.i] ?? "" : cell.classList.contains("none") ? "" : cell.textContent;
  };
  const name = (table, column) => table.tHead.rows[0].cells[column].textContent.trim();
  const sort = (th) => {
    const table = th.closest("table"), column = th.cellIndex, body = table.tBodies[0], rows = [...body.rows];
    const keys = new Map(rows.map((row) => [row, key(row, column, table)]));
    const filled = [...keys.values()].filter((v) => v !== "");
    const numeric = filled.length > 0 && filled.every((v) => !Number.isNaN(Number(v)));
    const before = th.getAttribute("aria-sort");
    const down = before ? before === "ascending" : numeric;
    const compare = (a, b) => {
      const x = keys.get(a), y = keys.get(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = numeric ? Number(x) - Number(y) : String(x).localeCompare(String(y), undefined, { numeric: true });
      return down ? -order : order;
    };
    rows.sort(compare);
    body.append(...rows);
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    if (table.dataset.heat) say(table, `sorted by ${name(table, column)}, ${down ? "descending" : "ascending"}`);
  };

  // Filtering.
  const say = (table, also) => {
    const rows = [...table.tBodies[0].rows], left = rows.filter((row) => !row.hidden).length;
    enter(rows.find((row) => !row.hidden)?.cells[1]);
    const output = $("output", table.closest("section"));
    output.value = `${left} of ${rows.length} models` + (also ? `, ${also}` : "");
  };
  const filter = (form) => {
    const table = $("table.heat", form.closest("section"));
    const text = form.elements.name.value.trim().toLowerCase();
    const wanted = ["method", "family", "size"].map((k) => [k, form.elements[k]?.value ?? ""]).filter(([, v]) => v);
    for (const row of table.tBodies[0].rows) {
      row.hidden = !(row.cells[0].textContent.toLowerCase().includes(text) && wanted.every(([k, v]) => row.dataset[k] === v));
    }
    say(table);
  };

  // What a cell of the heat map tells.
  const percent = (v) => (100 * v).toFixed(2);
  const tell = (cell) => {
    const table = cell.closest("table"), cells = data.cells[table.dataset.heat], i = cell.parentElement.dataset.i;
    const what = name(table, cell.cellIndex), j = cells.tasks.indexOf(what);
    const model = cell.parentElement.cells[0].textContent.replace(/\s*published$/, "").trim();
    const lines = [`${model}, ${what}`];
    let head = "no result";
    if (j < 0) {
      if (!cell.classList.contains("none")) head = what === "mean" ? `${percent(cells.mean[i])} %` : `${cell.textContent} %`;
      else head = "lacks tasks, so it has no mean";
    } else if (cells.values[i][j] !== null) {
      head = `${percent(cells.values[i][j])} %`;
      if (cells.n[i][j]) {
        lines.push(`95 % interval ${percent(cells.low[i][j])} to ${percent(cells.high[i][j])}`);
        lines.push(`${cells.n[i][j].toLocaleString("en")} examples`);
      }
      if (cells.chosen[i][j]) lines.push(`chosen: ${cells.chosen[i][j]}`);
      lines.push(cells.sources[i] ? `published: ${cells.sources[i]}` : cells.settings);
      if (cells.files[i][j]) lines.push(cells.files[i][j]);
    }
    tip.replaceChildren(Object.assign(document.createElement("strong"), { textContent: head }));
    for (const line of lines) tip.append(Object.assign(document.createElement("div"), { textContent: line }));
    tip.hidden = false;
    const box = cell.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left + box.width / 2 - size.width / 2), innerWidth - size.width - 8);
    const above = box.top - size.height - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
    cell.setAttribute("aria-describedby", "tip");
  };
  const hush = () => {
    tip.hidden = true;
    $("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  };
  const isCell = (element) => element instanceof HTMLTableCellElement && element.matches(".heat tbody td");
  // One cell is where Tab enters the table; arrow keys go on from there.
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
  document.addEventListener("pointerover", (e) => isCell(e.target) ? tell(e.target) : isCell(document.activeElement) || hush());
  document.addEventListener("focusin", (e) => isCell(e.target) ? tell(e.target) : hush());
  document.addEventListener("keydown", (e) => isCell(e.target) ? move(e.target, e) : e.key === "Escape" && hush());
  document.addEventListener("scroll", () => isCell(document.activeElement) || hush(), { capture: true, passive: true });
  document.addEventListener("click", (e) => {
    const button = e.target.closest("thead button");
    if (button) sort(button.closest("th"));
    else if (isCell(e.target)) focus(e.target);
  });
  document.addEventListener("input", (e) => {
    const form = e.target.closest("#ranking .filters");
    if (form) filter(form);
  });

  // Charts are drawn when they come near the screen.
  const colours = (value) => {
    if (typeof value === "string") return data.colours[value] ? getComputedStyle(root).getPropertyValue(data.colours[value]).trim() : value;
    if (Array.isArray(value)) return value.map(colours);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colours(v)]));
    return value;
  };
  const shorten = (layout, width) => {
    const most = width < 480 ? 18 : width < 800 ? 32 : 60;
    for (const axis of [layout.xaxis, layout.yaxis]) {
      axis.ticktext = axis.ticktext?.map((text) => (text.length > most ? `${text.slice(0, most - 6)}…${text.slice(-5)}` : text));
    }
  };
  const draw = (box) => {
    const figure = box.id === "scatter" ? pair() : data.charts[box.dataset.plot];
    const { data: traces, layout } = colours(figure);
    shorten(layout, box.clientWidth);
    if (layout.xaxis.title && box.clientWidth < 480) {
      layout.xaxis.title.text = layout.xaxis.title.text.replace(/, /g, ",<br>");
      layout.margin.b = 60;
    }
    box.dataset.drawn = "yes";
    Plotly.react(box, traces, layout, { displayModeBar: false, responsive: true });
  };
  const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }), { rootMargin: "400px" });
  const watch = () => $$("main .plot:not([data-drawn])").forEach((box) => near.observe(box));
  addEventListener("beforeprint", () => $$("main .plot:not([data-drawn])").forEach(draw));

  // One proxy against fine-tuning on one task.
  const pair = () => {
    const form = $("#pair"), s = data.scatter, figure = structuredClone(s.figure);
    const proxy = s.proxies[form.elements.proxy.value], j = form.elements.task.value;
    const rows = s.models.map((_, i) => i).filter((i) => proxy.values[i][j] !== null && s.truth[i][j] !== null);
    Object.assign(figure.data[0], {
      x: rows.map((i) => proxy.values[i][j]), y: rows.map((i) => s.truth[i][j]), text: rows.map((i) => s.models[i]),
      hovertemplate: "%{text}<br>%{x:.4g}, fine-tuned %{y:.1f} %<extra></extra>",
    });
    figure.layout.xaxis.title.text = proxy.title;
    const tau = proxy.tau[j];
    $("output", form).value = `${rows.length} models, weighted Kendall ${tau === null ? "undefined" : tau.toFixed(2)}`;
    return figure;
  };
  $("#pair")?.addEventListener("input", () => plotly && draw($("#scatter")));

  // Boards.
  const boards = new Map();
  const show = (which) => {
    hush();
    if (shown.dataset.board !== which) {
      boards.set(shown.dataset.board, [...shown.childNodes]);
      const there = boards.get(which) ?? [...$(`#board-${CSS.escape(which)}`).content.childNodes];
      shown.replaceChildren(...there);
      shown.dataset.board = which;
      if (plotly) $$(".plot[data-drawn]", shown).forEach(draw); // the theme or the width may have changed meanwhile
    }
    say($("table.heat", shown));
    if (plotly) watch();
  };
  const select = $("#board");
  select?.addEventListener("change", () => show(select.value));
  applyTheme();
  if (shown.dataset.board) show(select ? select.value : shown.dataset.board); // a browser may remember what was selected

  return {
    plots() {
      plotly = true;
      if ($("#pair")) pair();
      watch();
    },
  };
})();
