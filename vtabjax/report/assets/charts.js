// Charts: drawn when they come near the screen, in the theme's colours, and once more for paper.
const vtabCharts = (() => {
  const { data, redraw, whole, $, $$ } = vtabReport;
  const root = document.documentElement;
  const PAPER = 680; // pixels: A4 and letter between their margins
  let ready = false, paper = false;

  const colours = (value) => {
    if (typeof value === "string") return data.colours[value] ? getComputedStyle(root).getPropertyValue(data.colours[value]).trim() : value;
    if (Array.isArray(value)) return value.map(colours);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colours(v)]));
    return value;
  };
  const shorten = (layout, width) => {
    const most = width < 480 ? 24 : width < 800 ? 36 : 60;
    const across = layout.xaxis;
    // Of labels in percent every second one, the middle among them, where not all have room.
    if (width < 480 && across.ticktext?.[0]?.endsWith("%")) {
      const far = across.tickvals.map((v) => Math.abs(v)), middle = far.indexOf(Math.min(...far));
      const step = Math.ceil((34 * (across.range[1] - across.range[0])) / (width - 190));
      let last = -Infinity;
      const kept = across.tickvals.map((v, k) => {
        const stands = k === middle || ((k - middle) % 2 === 0 && v - last >= step && Math.abs(v - across.tickvals[middle]) >= step);
        if (stands) last = v;
        return stands;
      });
      for (const field of ["tickvals", "ticktext"]) across[field] = across[field].filter((_, k) => kept[k]);
    }
    layout.yaxis.ticktext = layout.yaxis.ticktext?.map((text) => (text.length > most ? `${text.slice(0, most - 10)}…${text.slice(-9)}` : text));
  };

  // Names beside points: each takes the first place that is free of other names, of lines and of the edge.
  const letter = 6.2, line = 14;
  const names = (points, corners, layout, width) => {
    const { l, r, t, b } = layout.margin, w = width - l - r, h = layout.height - t - b;
    const at = (range, v, length) => ((v - range[0]) / (range[1] - range[0])) * length;
    const marks = points.map((p) => ({ ...p, px: at(layout.xaxis.range, p.x, w), py: h - at(layout.yaxis.range, p.y, h) }));
    const taken = marks.map((p) => [p.px - 6, p.py - 6, p.px + 6, p.py + 6]);
    const ends = corners.map(([x, y]) => [at(layout.xaxis.range, x, w), h - at(layout.yaxis.range, y, h)]);
    ends.slice(1).forEach(([x, y], k) => {
      const [x0, y0] = ends[k];
      taken.push([Math.min(x, x0), Math.min(y, y0), Math.max(x, x0), Math.max(y, y0)]);
    });
    const placed = [];
    for (const p of marks.filter((mark) => mark.name)) {
      const wide = p.name.length * letter;
      const places = [["left", 4, -13], ["right", -4, -13], ["left", 9, 0], ["right", -9, 0], ["left", 4, 13], ["right", -4, 13]];
      for (const [anchor, dx, dy] of places) {
        const x0 = anchor === "left" ? p.px + dx : p.px + dx - wide, box = [x0, p.py + dy - line / 2, x0 + wide, p.py + dy + line / 2];
        const inside = box[0] >= 0 && box[2] <= w && box[1] >= -4 && box[3] <= h;
        const own = [p.px - 6, p.py - 6, p.px + 6, p.py + 6].join();
        if (inside && taken.every((o) => o.join() === own || box[2] < o[0] || box[0] > o[2] || box[3] < o[1] || box[1] > o[3])) {
          taken.push(box);
          placed.push({ x: p.x, y: p.y, xref: "x", yref: "y", text: p.name.replaceAll("<", "&lt;"), showarrow: false, xanchor: anchor, xshift: dx, yshift: -dy, font: { size: 11 } });
          break;
        }
      }
    }
    return placed;
  };

  const draw = (box) => {
    const figure = structuredClone(box.id === "scatter" ? pair() : data.charts[box.dataset.plot]);
    const points = figure.points ?? data.points[box.dataset.plot];
    const { data: traces, layout } = colours({ data: figure.data, layout: figure.layout });
    const width = paper ? PAPER : box.clientWidth;
    if (!width) return; // in a closed part of the page
    layout.width = width;
    shorten(layout, width);
    // Long legends take a second line on narrow screens.
    const entries = traces.filter((trace) => trace.name).reduce((sum, trace) => sum + trace.name.length * 7 + 44, 0);
    if (layout.legend) layout.margin.t = 20 + 20 * Math.ceil(entries / (width - 70));
    if (points) layout.annotations = names(points, data.corners[box.dataset.plot] ?? [], layout, width);
    box.dataset.drawn = "yes";
    Plotly.react(box, traces, layout, { displayModeBar: false });
  };
  const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
    if (entry.isIntersecting) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }), { rootMargin: "400px" });
  const watch = () => $$("main .plot:not([data-drawn])").forEach((box) => near.observe(box));
  const again = () => {
    if (!ready) return;
    $$("main .plot[data-drawn]").forEach(draw);
    watch();
  };
  redraw.push(again);
  let width = innerWidth, timer = 0;
  addEventListener("resize", () => {
    if (width === innerWidth || paper) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(again, 100);
  });

  // Paper: all charts at its width, all parts open, light; a long table in parts that fit on a page.
  const ON_A_PAGE = 34; // rows
  let opened = [], theme = "";
  const cut = (table) => {
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    if (rows.length <= ON_A_PAGE) return;
    let last = table;
    for (let k = ON_A_PAGE; k < rows.length; k += ON_A_PAGE) {
      const part = table.cloneNode(false), body = document.createElement("tbody");
      part.classList.add("part");
      body.append(...rows.slice(k, k + ON_A_PAGE).map((row) => row.cloneNode(true)));
      part.append(table.tHead.cloneNode(true), body);
      if (k + ON_A_PAGE >= rows.length && table.tFoot) part.append(table.tFoot.cloneNode(true));
      last.after(part);
      last = part;
    }
    for (const row of [...rows.slice(ON_A_PAGE), table.tFoot].filter(Boolean)) row.classList.add("in-part");
  };
  const join = () => {
    $$(".heat.part").forEach((part) => part.remove());
    $$(".in-part").forEach((row) => row.classList.remove("in-part"));
  };
  addEventListener("beforeprint", () => {
    paper = true;
    opened = $$("details:not([open])");
    for (const part of opened) part.open = true;
    join();
    $$("main .sheet").forEach(whole); // of the models by tasks as many are printed as are shown
    $$("main .heat:not(.few)").forEach(cut);
    theme = root.dataset.theme;
    root.dataset.theme = "light";
    if (ready) $$("main .plot").forEach(draw);
  });
  addEventListener("afterprint", () => {
    paper = false;
    for (const part of opened) part.open = false;
    join();
    root.dataset.theme = theme;
    again();
  });

  // One proxy against fine-tuning on one task.
  const wider = (values, share) => {
    const low = Math.min(...values), high = Math.max(...values), room = share * (high - low || Math.abs(high) || 1);
    return [low - room, high + room];
  };
  const pair = () => {
    const form = $("#pair"), s = data.scatter, figure = structuredClone(s.figure);
    const proxy = s.proxies[form.elements.proxy.value], j = form.elements.task.value;
    const rows = s.models.map((_, i) => i).filter((i) => proxy.values[i][j] !== null && s.truth[i][j] !== null);
    const x = rows.map((i) => proxy.values[i][j]), y = rows.map((i) => s.truth[i][j]);
    Object.assign(figure.data[0], {
      x, y, text: rows.map((i) => s.models[i]), hovertemplate: "%{text}<br>%{x:.4g}, fine-tuned %{y:.1f} %<extra></extra>",
    });
    if (rows.length) Object.assign(figure.layout.xaxis, { range: wider(x, 0.08) });
    if (rows.length) Object.assign(figure.layout.yaxis, { range: wider(y, 0.08) });
    figure.layout.xaxis.title.text = proxy.title;
    figure.layout.annotations = [];
    // The best by either are named.
    const best = (values) => values.map((v, k) => [v, k]).sort((a, b) => b[0] - a[0]).slice(0, 3).map(([, k]) => k);
    figure.points = [...new Set([...best(y), ...best(x)])].map((k) => ({ x: x[k], y: y[k], name: s.models[rows[k]] }));
    figure.points.push(...x.map((v, k) => ({ x: v, y: y[k], name: "" })));
    const tau = proxy.tau[j];
    $("output", form).value = `${rows.length} models, weighted Kendall ${tau === null ? "undefined" : tau.toFixed(2)}`;
    return figure;
  };
  $("#pair")?.addEventListener("input", () => ready && draw($("#scatter")));

  return {
    start() {
      ready = true;
      if ($("#pair")) pair();
      watch();
    },
  };
})();
