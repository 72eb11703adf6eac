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

  function draw(script) {
    const place = document.getElementById(script.dataset.figure);
    const figure = drawn.get(place) || JSON.parse(script.textContent);
    drawn.set(place, figure);
    const scale = figure.layout.meta && figure.layout.meta.scale;
    if (scale) figure.layout.coloraxis.colorscale = scales[dark.matches ? "dark" : "light"][scale];
    // lines over a map of colours are as dark as the page is light
    for (const { line } of figure.layout.shapes || []) {
      if (ink.includes(line.color)) line.color = ink[Number(dark.matches)];
    }
    figure.layout.width = place.clientWidth;
    Plotly.react(place, figure.data, figure.layout, config);
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
      // relayout draws at once, so that a page that is printed or captured right after fits too
      const width = target.clientWidth;
      if (width && width !== target.layout.width) Plotly.relayout(target, { width });
    }
  });
  drawn.forEach((_, place) => fit.observe(place));
})();
