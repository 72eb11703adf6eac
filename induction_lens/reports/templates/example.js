"use strict";
(() => {
  const example = JSON.parse(document.getElementById("example").textContent);
  const buttons = [...document.querySelectorAll("#strip button")];
  const readout = document.getElementById("readout");
  let chosen = example.start;

  function show(query) {
    const weights = example.weights[query];
    const targets = new Set(example.targets[query]);
    buttons.forEach((button, key) => {
      const weight = key <= query ? weights[key] / 100 : 0;
      button.style.background = weight > 0.005 ? `rgba(var(--hot), ${Math.min(0.9, weight)})` : "";
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
