"use strict";
(() => {
  const scales = {
    light: {
      sequential: [[0, "#eef2f7"], [0.35, "#9dbfe6"], [0.7, "#3b7dd8"], [1, "#123f7d"]],
      diverging: [[0, "#1f7a5c"], [0.25, "#8cc9b2"], [0.5, "#f1f2f4"], [0.75, "#ecaa85"], [1, "#b8480f"]],
    },
    dark: {
      sequential: [[0, "#20262f"], [0.35, "#22508c"], [0.7, "#4f93ea"], [1, "#d3e6ff"]],
      diverging: [[0, "#58d6ab"], [0.25, "#256b55"], [0.5, "#242a33"], [0.75, "#93481e"], [1, "#ff9a5c"]],
    },
  };
  // a site with a switch of its own says what is chosen there
  const dark = window.darkPage || matchMedia("(prefers-color-scheme: dark)");
  const ink = ["#12151b", "#e4e7ec"];
  const config = { displayModeBar: false };
  const drawn = new Map();

  const rgb = (color) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  function colorAt(scale, share) {
    const at = Math.min(1, Math.max(0, share));
    const next = Math.max(1, scale.findIndex(([place]) => at <= place));
    const [[start, low], [stop, high]] = [scale[next - 1], scale[next]];
    const part = (at - start) / (stop - start);
    return rgb(low).map((one, i) => one + (rgb(high)[i] - one) * part);
  }
  function inkOn(color) { // black or white, whichever can be read: as induction_lens.style.ink_on
    const [red, green, blue] = color.map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    const light = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    return (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) ? "#000000" : "#ffffff";
  }

  // Numbers in cells: shown where they fit, in black or white.
  function number(figure, width) {
    const { layout } = figure;
    for (const trace of figure.data) {
      if (!trace.meta || !trace.meta.numbers_of) continue;
      const axis = layout[trace.meta.numbers_of];
      const fits = (width - 60) / trace.meta.columns >= 24;
      trace.visible = fits;
      axis.showscale = !(fits && trace.meta.columns * trace.meta.rows <= 32);
      trace.textfont.color = trace.customdata.map((value) => (value === null ? ink[0]
        : inkOn(colorAt(axis.colorscale, (value - axis.cmin) / (axis.cmax - axis.cmin)))));
    }
  }

  // Small multiples: as many side by side as there is room for (as induction_lens.plots.lay_out).
  function layOut(layout, width) {
    const { n, cell, gap, title, titles } = layout.meta.grid;
    const columns = Math.min(n, Math.max(1, Math.floor(width / 175)));
    const inner = Math.ceil(n / columns) * (cell + gap);
    const between = 0.2 / columns;
    const wide = (1 - between * (columns - 1)) / columns;
    for (let index = 0; index < n; index += 1) {
      const [row, column] = [Math.floor(index / columns), index % columns];
      const left = column * (wide + between);
      const top = 1 - (row * (cell + gap) + title) / inner;
      const [x, y] = ["xaxis", "yaxis"].map((name) => layout[name + (index ? index + 1 : "")]);
      x.domain = [left, left + wide];
      y.domain = [Math.max(0, top - cell / inner), top];
      x.title = { ...x.title, text: index + columns >= n ? titles[0] : "" };
      y.title = { ...y.title, text: column === 0 ? titles[1] : "" };
      Object.assign(layout.annotations[index], { x: left, y: top });
    }
    layout.height = inner + 24;
  }

  function draw(script) {
    const place = document.getElementById(script.dataset.figure);
    if (!place.clientWidth || place.closest("details:not([open])")) return; // once it is unfolded
    const figure = drawn.get(place) || JSON.parse(script.textContent);
    drawn.set(place, figure);
    const { layout } = figure;
    const named = (layout.meta && layout.meta.scales) || {};
    for (const [axis, kind] of Object.entries(named)) {
      layout[axis].colorscale = scales[dark.matches ? "dark" : "light"][kind];
    }
    // lines over a map of colours are as dark as the page is light
    for (const { line } of layout.shapes || []) {
      if (ink.includes(line.color)) line.color = ink[Number(dark.matches)];
    }
    layout.width = place.clientWidth;
    number(figure, layout.width);
    if (layout.meta && layout.meta.grid) layOut(layout, layout.width);
    place.style.minHeight = `${layout.height}px`;
    Plotly.react(place, figure.data, layout, config);
  }
  const scripts = [...document.querySelectorAll("script[data-figure]")];
  const drawAll = () => scripts.forEach(draw);
  drawAll();
  // a head on a map leads to what it does, where that lies beside the page
  document.querySelectorAll("[data-view]").forEach((maps) => drawn.forEach((_, place) => {
    if (!maps.contains(place)) return;
    place.classList.add("leads");
    place.on("plotly_click", ({ points: [{ x, y }] }) => { location.href = `${maps.dataset.view}#${y}.${x}`; });
  }));
  dark.addEventListener("change", drawAll);
  const fit = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      // drawn at once, so that a page that is printed or captured right after fits too
      const figure = drawn.get(target);
      const width = target.clientWidth;
      if (width && (!figure || width !== figure.layout.width)) draw(target.nextElementSibling);
    }
  });
  scripts.forEach((script) => fit.observe(document.getElementById(script.dataset.figure)));

  // What is folded is drawn when it is unfolded.
  for (const part of document.querySelectorAll("details")) {
    part.addEventListener("toggle", () => part.open && part.querySelectorAll("script[data-figure]").forEach(draw));
  }
  addEventListener("beforeprint", drawAll);
})();
