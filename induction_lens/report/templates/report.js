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
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const config = { displayModeBar: false };
  const drawn = new Map();

  function draw(script) {
    const place = document.getElementById(script.dataset.figure);
    const figure = drawn.get(place) || JSON.parse(script.textContent);
    drawn.set(place, figure);
    const scale = figure.layout.meta && figure.layout.meta.scale;
    if (scale) figure.layout.coloraxis.colorscale = scales[dark.matches ? "dark" : "light"][scale];
    figure.layout.width = place.clientWidth;
    Plotly.react(place, figure.data, figure.layout, config);
  }
  const scripts = [...document.querySelectorAll("script[data-figure]")];
  const drawAll = () => scripts.forEach(draw);
  drawAll();
  dark.addEventListener("change", drawAll);
  const fit = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      // relayout draws at once, so that a page that is printed or captured right after fits too
      const width = target.clientWidth;
      if (width && width !== target.layout.width) Plotly.relayout(target, { width });
    }
  });
  drawn.forEach((_, place) => fit.observe(place));

  const example = JSON.parse(document.getElementById("example").textContent);
  const buttons = [...document.querySelectorAll("#strip button")];
  const readout = document.getElementById("readout");
  let chosen = example.start;

  function show(query) {
    const weights = example.weights[query];
    const targets = new Set(example.targets[query]);
    buttons.forEach((button, key) => {
      const weight = key <= query ? weights[key] / 100 : 0;
      button.style.background = weight > 0.005 ? `rgba(var(--hot), ${Math.min(1, weight)})` : "";
      button.setAttribute("aria-pressed", String(key === query));
      button.classList.toggle("target", targets.has(key));
      button.classList.toggle("later", key > query);
    });
    const quoted = (at) => `“${example.tokens[at]}” (position ${at})`;
    const strongest = weights.map((weight, key) => [weight, key]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const parts = strongest.filter(([weight]) => weight >= 1).map(([weight, key]) => `${Math.round(weight)}% to ${quoted(key)}`);
    const aimed = [...targets].reduce((sum, key) => sum + weights[key], 0);
    const about = targets.size
      ? ` Underlined: ${Math.round(aimed)}% in all.`
      : " This token has no earlier copy here, so there is nothing to match.";
    readout.textContent = `From ${quoted(query)}: ${parts.join(", ")}.${about}`;
  }
  buttons.forEach((button, at) => {
    button.addEventListener("mouseenter", () => show(at));
    button.addEventListener("focus", () => show(at));
    button.addEventListener("click", () => { chosen = at; show(at); });
  });
  document.getElementById("strip").addEventListener("mouseleave", () => show(chosen));
  show(chosen);
})();
