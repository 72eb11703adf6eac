"use strict";
(async () => {
  const view = JSON.parse(document.getElementById("view").textContent);
  const n = view.tokens.length;
  const of = (id) => document.getElementById(id);
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const trouble = (said) => { of("trouble").textContent = said; of("trouble").hidden = false; };

  if (typeof DecompressionStream === "undefined") {
    trouble("This browser cannot unpack the numbers of this page. Open it with Chrome or Edge 80, Firefox 113, Safari 16.4, or a later one.");
    return;
  }

  // --- numbers ---------------------------------------------------------------------------------

  async function unpacked(id) {
    const text = atob(of(id).textContent);
    const packed = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) packed[i] = text.charCodeAt(i);
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  const row = (query) => (query * (query + 1)) / 2;

  class Head {
    static async read(index) {
      const head = new Head();
      head.index = index;
      head.name = view.heads[index];
      head.pattern = await unpacked(`pattern-${index}`);
      if (view.hasValues) head.norms = new Float32Array((await unpacked(`norms-${index}`)).buffer);
      if (view.units) {
        head.logits = await unpacked(`logits-${index}`);
        head.totals = new Float32Array((await unpacked(`totals-${index}`)).buffer);
      }
      return head;
    }

    value(measure, query, key) {
      if (key > query) return 0;
      if (measure === "logits") {
        return query === n - 1 ? 0 : ((this.logits[row(query) + key] - 128) / 127) * view.units[this.index];
      }
      const weight = this.pattern[row(query) + key] / 255;
      return measure === "weighted" ? weight * this.norms[key] : weight;
    }

    // attention of a query that lies on tokens too weak to be told apart from none
    rest(query) { return this.pattern[row(n) + query] / 255; }

    largest(measure) {
      if (measure === "pattern") return 1;
      if (measure === "logits") return view.units[this.index];
      if (this.most === undefined) {
        this.most = 0;
        for (let query = 0; query < n; query++) {
          for (let key = 0; key <= query; key++) this.most = Math.max(this.most, this.value("weighted", query, key));
        }
      }
      return this.most || 1;
    }
  }

  const targetsOf = { from: new Map(), to: new Map() };
  const pairs = new Uint16Array((await unpacked("targets")).buffer);
  const add = (map, at, other) => (map.get(at) || map.set(at, new Set()).get(at)).add(other);
  for (let i = 0; i < pairs.length; i += 2) {
    add(targetsOf.from, pairs[i], pairs[i + 1]);
    add(targetsOf.to, pairs[i + 1], pairs[i]);
  }
  const isTarget = (query, key) => Boolean(targetsOf.from.get(query)?.has(key));

  const LINE = 13; // CSS pixels that a line of labels needs

  // --- state -----------------------------------------------------------------------------------

  const state = { measure: "pattern", direction: "from", at: view.query, cell: null, from: [0, 0], size: n };
  const read = new Map();
  const cards = new Map();
  let colours = {};

  const quoted = (at) => `“${view.tokens[at]}” (${at})`;
  const decimal = (x) => (x < 0 ? "−" : "") + Math.abs(x).toPrecision(3);
  const shown = (x) => (state.measure === "pattern" ? `${(100 * x).toFixed(x < 0.1 ? 1 : 0)}%` : decimal(x));
  const cellOf = (other, at = state.at) => (state.direction === "from" ? [at, other] : [other, at]);
  const clamp = (x, low, high) => Math.max(low, Math.min(high, x));

  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["card", "ink", "soft", "line", "hot", "cold", "accent"]) {
      const hex = style.getPropertyValue(`--${name}`).trim();
      colours[name] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    }
  }
  const css = (rgb) => `rgb(${rgb.join(" ")})`;
  function mixed(share) {
    const depth = Math.sqrt(Math.min(1, Math.abs(share)));
    const full = share < 0 ? colours.cold : colours.hot;
    return colours.card.map((base, i) => Math.round(base + (full[i] - base) * depth));
  }

  // --- one card for each chosen head -----------------------------------------------------------

  function makeCard(head) {
    const strip = make("div", { class: "strip", tabindex: "0", role: "listbox", "aria-label": `Tokens, coloured by head ${head.name}` });
    const spans = view.tokens.map((token, i) => make("span", { role: "option", id: `t${head.index}-${i}`, "data-at": i }, token));
    const breaks = new Set(view.breaks);
    spans.forEach((span, i) => strip.append(...(breaks.has(i) ? [span, make("br")] : [span])));
    const readout = make("p", { class: "readout", "aria-live": "polite" });
    const canvas = make("canvas", { tabindex: "0", role: "application", "aria-label": `Map of head ${head.name}: queries down, keys across; arrow keys move by a cell, plus and minus zoom` });
    const cell = make("span", { "aria-live": "polite" });
    const button = (text, label, act) => {
      const made = make("button", { type: "button", "aria-label": label }, text);
      made.addEventListener("click", act);
      return made;
    };
    const tools = make("div", { class: "tools" },
      button("+", "Zoom in", () => zoom(0.5)), button("−", "Zoom out", () => zoom(2)), button("all", "Show the whole map", () => zoom(Infinity)), cell);
    const close = button("×", `Take head ${head.name} away`, () => toggle(head.index));
    const score = make("span");
    // what the labels at the edges say is in `cell`, for those who cannot see them
    const rows = make("div", { class: "rows", "aria-hidden": "true" });
    const columns = make("div", { class: "columns", "aria-hidden": "true" });
    const corner = make("div", { class: "corner", "aria-hidden": "true" }, make("span", {}, "key →"), make("span", {}, "query ↓"));
    const plot = make("div", { class: "plot" }, corner, columns, rows, canvas);
    const ramp = make("i"), low = make("span"), high = make("span");
    const scale = make("div", { class: "scale" }, low, ramp, high);
    const element = make("article", { class: "headcard", "aria-label": `Head ${head.name}` },
      make("header", {}, make("h3", {}, `Head ${head.name}`), score, close),
      make("div", { class: "inside" }, make("div", {}, strip, readout), make("div", { class: "map" }, plot, scale, tools)));
    const card = { head, element, strip, spans, readout, rows, columns, canvas, cell, score, ramp, low, high };
    listen(card);
    return card;
  }

  function listen(card) {
    const { strip, canvas } = card;
    const at = (event) => event.target.dataset?.at;
    strip.addEventListener("pointerover", (event) => { if (at(event) !== undefined) paint(Number(at(event))); });
    strip.addEventListener("pointerleave", () => paint(state.at));
    strip.addEventListener("click", (event) => { if (at(event) !== undefined) choose(Number(at(event))); });
    strip.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, Home: -n, End: n }[event.key];
      if (step !== undefined) choose(state.at + step);
      else if (event.key === "ArrowUp" || event.key === "ArrowDown") choose(nextLine(card, event.key === "ArrowUp" ? -1 : 1));
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("keydown", (event) => {
      const [query, key] = state.cell || defaultCell(card.head);
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (moves[event.key]) pointAt(query + moves[event.key][0], key + moves[event.key][1]);
      else if (event.key === "+" || event.key === "=") zoom(0.5);
      else if (event.key === "-") zoom(2);
      else if (event.key === "0") zoom(Infinity);
      else return;
      event.preventDefault();
    });
    let grabbed = null;
    canvas.addEventListener("pointerdown", (event) => { grabbed = { x: event.clientX, y: event.clientY, from: [...state.from], moved: false }; canvas.setPointerCapture(event.pointerId); });
    canvas.addEventListener("pointermove", (event) => {
      const perPixel = state.size / canvas.clientWidth;
      if (grabbed && state.size < n && Math.hypot(event.clientX - grabbed.x, event.clientY - grabbed.y) > 4) {
        grabbed.moved = true;
        state.from = [grabbed.from[0] - (event.clientY - grabbed.y) * perPixel, grabbed.from[1] - (event.clientX - grabbed.x) * perPixel].map((x) => clamp(Math.round(x), 0, n - state.size));
        drawMaps();
      }
      say(card, ...under(card, event));
    });
    canvas.addEventListener("pointerup", (event) => {
      if (grabbed && !grabbed.moved) pointAt(...under(card, event));
      grabbed = null;
    });
    canvas.addEventListener("pointerleave", () => say(card));
  }

  function under(card, event) {
    const box = card.canvas.getBoundingClientRect();
    const perPixel = state.size / box.width;
    return [state.from[0] + Math.floor((event.clientY - box.top) * perPixel), state.from[1] + Math.floor((event.clientX - box.left) * perPixel)].map((x) => clamp(x, 0, n - 1));
  }

  function nextLine(card, down) {
    const here = card.spans[state.at];
    let best = state.at, least = Infinity, line = null;
    for (let i = state.at + down; i >= 0 && i < n; i += down) {
      const top = card.spans[i].offsetTop;
      if (Math.abs(top - here.offsetTop) < 4) continue;
      if (line === null) line = top;
      if (Math.abs(top - line) >= 4) break;
      const distance = Math.abs(card.spans[i].offsetLeft - here.offsetLeft);
      if (distance < least) { least = distance; best = i; }
    }
    return best;
  }

  // --- painting --------------------------------------------------------------------------------

  function strongest(head, at) {
    const others = [];
    for (let other = 0; other < n; other++) {
      const [query, key] = cellOf(other, at);
      const value = head.value(state.measure, query, key);
      if (value !== 0) others.push([value, other]);
    }
    return others.sort((a, b) => Math.abs(b[0]) - Math.abs(a[0]));
  }

  function defaultCell(head) {
    const [first] = strongest(head, state.at);
    return cellOf(first ? first[1] : state.at);
  }

  function paint(at) { cards.forEach((card) => paintCard(card, at)); }

  function paintCard(card, at) {
    const { head, spans } = card;
    const most = head.largest(state.measure);
    const aimed = targetsOf[state.direction].get(at);
    for (let other = 0; other < n; other++) {
      const [query, key] = cellOf(other, at);
      const value = head.value(state.measure, query, key);
      const span = spans[other];
      span.style.background = value ? css(mixed(value / most)) : "";
      span.className = `${key > query ? "later " : ""}${aimed?.has(other) ? "target " : ""}${other === at ? "chosen" : ""}`;
      if (other === at) { span.setAttribute("aria-selected", "true"); card.strip.setAttribute("aria-activedescendant", span.id); }
      else span.removeAttribute("aria-selected");
    }
    card.readout.replaceChildren(...told(head, at));
  }

  function told(head, at) {
    const strong = make("b", {}, quoted(at));
    const found = strongest(head, at);
    const top = found.slice(0, 4).map(([value, other]) => `${shown(value)} ${state.direction === "from" ? (state.measure === "pattern" ? "to" : "from") : (state.measure === "pattern" ? "from" : "to")} ${quoted(other)}`).join(", ");
    const aimed = [...(targetsOf[state.direction].get(at) || [])];
    const sum = aimed.reduce((total, other) => total + head.value(state.measure, ...cellOf(other, at)), 0);
    const underlined = aimed.length ? ` Underlined: ${shown(sum)} in all.` : "";
    if (state.measure === "logits" && state.direction === "from") {
      if (at === n - 1) return [strong, ": no token follows it here, so there is no logit to attribute."];
      return [strong, `: ${decimal(head.totals[at])} in all to the logit of ${quoted(at + 1)}, which comes next`, top ? `; of it ${top}.` : ".", underlined];
    }
    if (!top) return [strong, state.direction === "from" ? ": no token stands out." : ": hardly any token looks here."];
    const beginning = { pattern: state.direction === "from" ? "From " : "To ", weighted: state.direction === "from" ? "Moved to " : "Moved from ", logits: "Through " }[state.measure];
    const rest = state.measure === "pattern" && state.direction === "from" && head.rest(at) > 0.02 ? ` ${shown(head.rest(at))} lies on tokens with less than 0.2% each.` : "";
    return [beginning, strong, `: ${top}.`, rest, underlined];
  }

  function say(card, query, key) {
    const [q, k] = query === undefined ? state.cell || defaultCell(card.head) : [query, key];
    const value = card.head.value(state.measure, q, k);
    if (k > q) card.cell.textContent = `${quoted(q)} comes before ${quoted(k)} and does not see it`;
    else card.cell.textContent = `query ${quoted(q)}, key ${quoted(k)}: ${shown(value)}${isTarget(q, k) ? ", a target" : ""}`;
  }

  function drawMap(card) {
    const { canvas, head } = card;
    const pixels = Math.max(64, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
    if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
    const context = canvas.getContext("2d");
    const drawn = [pixels, state.measure, state.size, state.from, colours.card, colours.hot].join();
    if (card.drawn !== drawn) Object.assign(card, { drawn, image: cellsOf(head, context.createImageData(pixels, pixels)) });
    context.putImageData(card.image, 0, 0);
    marks(card, context, pixels / state.size);
    label(card);
  }

  // Tokens where each has room; else positions, as many as have room.
  function label(card) {
    const { rows, columns, canvas } = card;
    const perCell = canvas.clientWidth / state.size;
    const each = perCell >= LINE;
    const step = each ? 1 : [1, 2, 5].flatMap((k) => [k, 10 * k, 100 * k, 1000 * k]).sort((a, b) => a - b).find((k) => k * perCell >= 3 * LINE);
    const [query, key] = state.cell || defaultCell(card.head);
    for (const [axis, from, chosen] of [[rows, state.from[0], query], [columns, state.from[1], key]]) {
      const labels = [];
      for (let at = Math.ceil(from / step) * step; at < from + state.size; at += step) {
        const said = make("span", { title: quoted(at) }, each ? view.tokens[at] : String(at));
        if (each && at === chosen) said.className = "chosen";
        said.style.setProperty("--at", `${((at + 0.5 - from) * 100) / state.size}%`);
        labels.push(said);
      }
      axis.replaceChildren(...labels);
      axis.classList.toggle("positions", !each);
    }
  }

  function cellsOf(head, image) {
    const pixels = image.width, { size } = state, most = head.largest(state.measure);
    const dots = new Uint32Array(image.data.buffer);
    const packed = ([red, green, blue]) => (255 << 24) | (blue << 16) | (green << 8) | red;
    const edge = (from, i) => from + Math.floor((i * size) / pixels);
    const spans = (from) => Array.from({ length: pixels }, (_, i) => [edge(from, i), Math.max(edge(from, i) + 1, edge(from, i + 1))]);
    const rows = spans(state.from[0]), columns = spans(state.from[1]);
    const unseen = packed(colours.card.map((base, i) => Math.round(base + (colours.line[i] - base) * 0.35)));
    const known = new Map();
    rows.forEach(([q0, q1], y) => columns.forEach(([k0, k1], x) => {
      let value = 0;
      for (let q = q0; q < q1; q++) for (let k = k0; k < Math.min(k1, q + 1); k++) {
        const here = head.value(state.measure, q, k);
        if (Math.abs(here) > Math.abs(value)) value = here;
      }
      const level = Math.round((255 * value) / most);
      if (!known.has(level)) known.set(level, packed(mixed(level / 255)));
      dots[y * pixels + x] = k0 >= q1 ? unseen : known.get(level);
    }));
    return image;
  }

  function marks(card, context, perCell) {
    const x = (key) => (key - state.from[1]) * perCell, y = (query) => (query - state.from[0]) * perCell;
    const ratio = window.devicePixelRatio || 1;
    context.lineWidth = ratio;
    if (perCell >= 4 * ratio) {
      context.strokeStyle = css(colours.soft);
      for (let i = 0; i < pairs.length; i += 2) {
        if (inside(pairs[i], pairs[i + 1])) context.strokeRect(x(pairs[i + 1]) + 0.5, y(pairs[i]) + 0.5, perCell - 1, perCell - 1);
      }
    }
    const [query, key] = state.cell || defaultCell(card.head);
    context.strokeStyle = css(colours.ink);
    context.globalAlpha = 0.55;
    const wide = Math.max(perCell, 2 * ratio), end = state.size * perCell;
    if (state.direction === "from") context.strokeRect(-2, y(state.at), end + 4, wide);
    else context.strokeRect(x(state.at), -2, wide, end + 4);
    context.globalAlpha = 1;
    context.lineWidth = 2 * ratio;
    const large = Math.max(perCell, 6 * ratio);
    context.strokeRect(x(key) + (perCell - large) / 2, y(query) + (perCell - large) / 2, large, large);
  }

  const inside = (query, key) => [query - state.from[0], key - state.from[1]].every((at) => at >= 0 && at < state.size);

  function drawMaps() { cards.forEach((card) => { drawMap(card); say(card); }); }

  // --- choosing --------------------------------------------------------------------------------

  function choose(at) {
    state.at = clamp(at, 0, n - 1);
    state.cell = null;
    follow(...(cards.size ? defaultCell(cards.values().next().value.head) : [state.at, state.at]));
    settle();
  }

  function settle() {
    paint(state.at);
    drawMaps();
    // long text scrolls inside its strip
    cards.forEach(({ spans, strip }) => {
      const span = spans[state.at], top = span.offsetTop - strip.scrollTop;
      if (top < 0 || top + span.offsetHeight > strip.clientHeight) strip.scrollTop = span.offsetTop - strip.clientHeight / 2;
    });
  }

  function pointAt(query, key) {
    state.cell = [clamp(query, 0, n - 1), clamp(key, 0, n - 1)];
    state.at = state.cell[state.direction === "from" ? 0 : 1];
    follow(...state.cell);
    settle();
  }

  // move the part of the map that is shown so that a cell is in it
  function follow(query, key) {
    if (inside(query, key)) return;
    state.from = [query, key].map((at) => clamp(Math.round(at - state.size / 2), 0, n - state.size));
  }

  function zoom(factor) {
    const [query, key] = state.cell || (cards.size ? defaultCell(cards.values().next().value.head) : [state.at, state.at]);
    state.size = clamp(Math.round(state.size * factor), Math.min(n, 8), n);
    state.from = [query, key].map((at) => clamp(Math.round(at - state.size / 2), 0, n - state.size));
    drawMaps();
  }

  async function toggle(index) {
    if (cards.has(index)) {
      cards.get(index).element.remove();
      cards.delete(index);
    } else {
      if (!read.has(index)) read.set(index, await Head.read(index));
      cards.set(index, makeCard(read.get(index)));
    }
    arrange();
  }

  function arrange() {
    const order = [...cards.keys()].sort((a, b) => a - b);
    of("cards").replaceChildren(...order.map((index) => cards.get(index).element));
    of("cards").classList.toggle("single", order.length === 1);
    of("grid").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", String(cards.has(Number(button.dataset.index)))));
    try { history.replaceState(null, "", `#${order.map((index) => view.heads[index]).join(",")}`); } catch { /* in a frame there is no address to keep */ }
    redraw();
  }

  const explained = {
    pattern: { from: "Attention of the chosen token on each earlier one.", to: "Attention of each later token on the chosen one." },
    weighted: { from: "How much the head moves from each token to the chosen one: attention times the length of its value.", to: "How much the head moves from the chosen token to each later one." },
    logits: { from: "What each token adds, through the head, to the logit of the token that comes after the chosen one. Blue takes away.", to: "What the chosen token adds, through the head, to the logit of the token after each later one. Blue takes away." },
  };

  function redraw() {
    readColours();
    of("explained").textContent = explained[state.measure][state.direction];
    const ramp = (signed) => `linear-gradient(to right, ${[...Array(11).keys()].map((i) => css(mixed(signed ? i / 5 - 1 : i / 10))).join(", ")})`;
    cards.forEach((card) => {
      const signed = state.measure === "logits", most = card.head.largest(state.measure);
      card.ramp.style.background = ramp(signed);
      card.low.textContent = signed ? shown(-most) : "0";
      card.high.textContent = shown(most);
      const score = view.grid[gridIndex(card.head.name)];
      card.score.textContent = score === null || !view.gridOf ? "" : `${view.gridOf} ${score.toFixed(2)}`;
    });
    colourGrid();
    settle();
  }

  // --- the grid of heads -----------------------------------------------------------------------

  const gridIndex = (name) => { const [layer, head] = name.split(".").map(Number); return layer * view.nHeads + head; };
  const grid = of("grid");

  function makeGrid() {
    const byPlace = new Map(view.heads.map((name, index) => [gridIndex(name), index]));
    grid.style.setProperty("--cell", view.nHeads > 24 ? "1.2rem" : view.nHeads > 16 ? "1.6rem" : "2.1rem");
    grid.style.gridTemplateColumns = `auto repeat(${view.nHeads}, var(--cell))`;
    grid.append(make("b", {}, "head"), ...Array.from({ length: view.nHeads }, (_, head) => make("b", { class: "column" }, String(head))));
    for (let layer = 0; layer < view.nLayers; layer++) {
      grid.append(make("b", {}, `layer ${layer}`));
      for (let head = 0; head < view.nHeads; head++) {
        const place = layer * view.nHeads + head, score = view.grid[place], index = byPlace.get(place);
        const said = score === null ? "" : `, ${view.gridOf} ${score.toFixed(2)}`;
        const button = make("button", { type: "button", "aria-label": `Head ${layer}.${head}${said}`, "aria-pressed": "false", tabindex: "-1", "data-place": place }, score === null || view.nHeads > 24 ? "" : score.toFixed(2).replace(/^(-?)0/, "$1"));
        if (index === undefined) button.disabled = true;
        else { button.dataset.index = index; button.title = `head ${layer}.${head}${said}`; }
        grid.append(button);
      }
    }
    const buttons = [...grid.querySelectorAll("button:not(:disabled)")];
    buttons[0].tabIndex = 0;
    const focus = (button) => { buttons.forEach((other) => { other.tabIndex = other === button ? 0 : -1; }); button.focus(); };
    grid.addEventListener("click", (event) => { const button = event.target.closest("button"); if (button) { buttons.forEach((other) => { other.tabIndex = other === button ? 0 : -1; }); toggle(Number(button.dataset.index)); } });
    grid.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -view.nHeads, ArrowDown: view.nHeads }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const last = view.nHeads * view.nLayers;
      for (let place = Number(event.target.dataset.place) + step; place >= 0 && place < last; place += step) {
        const next = buttons.find((button) => Number(button.dataset.place) === place);
        if (next) { focus(next); return; }
      }
    });
    if (view.gridOf) of("chooser").textContent = `Choose one or several; arrow keys move. Numbers: ${view.gridOf}.`;
  }

  function colourGrid() {
    grid.querySelectorAll("button:not(:disabled)").forEach((button) => {
      const score = view.grid[Number(button.dataset.place)];
      button.style.background = score === null ? "" : css(mixed(clamp(score, -1, 1)));
    });
  }

  // --- beginning -------------------------------------------------------------------------------

  document.querySelectorAll("fieldset input").forEach((input) => input.addEventListener("change", () => {
    state[input.name] = input.value;
    state.cell = null;
    redraw();
  }));
  const without = { weighted: !view.hasValues, logits: !view.units };
  for (const [measure, missing] of Object.entries(without)) document.querySelector(`input[value=${measure}]`).disabled = missing;
  of("theme").addEventListener("change", (event) => {
    if (event.target.value) document.documentElement.dataset.theme = event.target.value;
    else delete document.documentElement.dataset.theme;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let width = 0;
  new ResizeObserver(() => { if (of("cards").clientWidth !== width) { width = of("cards").clientWidth; drawMaps(); } }).observe(of("cards"));

  readColours();
  makeGrid();
  const named = decodeURIComponent(location.hash.slice(1)).split(",").map((name) => view.heads.indexOf(name)).filter((index) => index >= 0);
  for (const index of named.length ? new Set(named) : view.shown) {
    read.set(index, await Head.read(index));
    cards.set(index, makeCard(read.get(index)));
  }
  arrange();
  document.documentElement.dataset.ready = "true";
})();
