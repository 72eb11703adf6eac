// What is asked of a page that is shown: see browser.py.
"use strict";
window.looked = (() => {
  const rgba = (text) => {
    const parts = text.match(/[\d.]+/g)?.map(Number);
    if (!parts || text.startsWith("url(")) return [0, 0, 0, 0]; // none, or a ramp of colours
    if (text.startsWith("color(srgb")) parts.splice(0, 3, ...parts.slice(0, 3).map((part) => part * 255));
    else if (!text.startsWith("rgb")) throw new Error(`a colour that is not known here: ${text}`);
    return parts.length === 3 ? [...parts, 1] : parts;
  };
  const over = (top, below) => {
    const alpha = top[3] + below[3] * (1 - top[3]);
    const mixed = (i) => (top[i] * top[3] + below[i] * below[3] * (1 - top[3])) / (alpha || 1);
    return [mixed(0), mixed(1), mixed(2), alpha];
  };
  const light = (color) => {
    const [r, g, b] = color.slice(0, 3).map((part) => part / 255)
      .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (ink, below) => {
    const [high, low] = [light(ink), light(below)].sort((one, other) => other - one);
    return (high + 0.05) / (low + 0.05);
  };
  const named = (element) => {
    const classes = element.getAttribute("class");
    return element.localName + (element.id ? `#${element.id}` : "") + (classes ? `.${classes.trim().replace(/\s+/g, ".")}` : "");
  };

  // Texts that are shown with less contrast than this to what is behind them.
  function contrasts(least) {
    const [behind, opacities, shapes] = [new Map(), new Map(), new Map()];
    // what the browser paints where a page has no background: white, or dark where the page allows it
    const dark = matchMedia("(prefers-color-scheme: dark)").matches
      && getComputedStyle(document.documentElement).colorScheme.includes("dark");
    const background = (element) => {
      if (!element) return dark ? [18, 18, 18, 1] : [255, 255, 255, 1];
      if (!behind.has(element)) {
        const own = rgba(getComputedStyle(element).backgroundColor);
        behind.set(element, own[3] === 1 ? own : over(own, background(element.parentElement)));
      }
      return behind.get(element);
    };
    const opacity = (element) => {
      if (!element) return 1;
      if (!opacities.has(element)) {
        opacities.set(element, Number(getComputedStyle(element).opacity) * opacity(element.parentElement));
      }
      return opacities.get(element);
    };
    const shapesOf = (svg) => {
      if (!shapes.has(svg)) {
        shapes.set(svg, [...svg.querySelectorAll("path, rect, circle, polygon")].map((shape) => {
          const { fill, fillOpacity } = getComputedStyle(shape);
          const color = rgba(fill);
          color[3] *= Number(fillOpacity) * opacity(shape);
          return { shape, color, box: shape.getBoundingClientRect() };
        }).filter(({ color }) => color[3] > 0));
      }
      return shapes.get(svg);
    };
    const covers = (shape, x, y) => shape.isPointInFill(new DOMPoint(x, y).matrixTransform(shape.getScreenCTM().inverse()));
    // in a drawing also the shapes that were painted before a text, and lie where its middle is
    const behindDrawn = (element, svg) => {
      const box = element.getBoundingClientRect();
      const [x, y] = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
      return shapesOf(svg)
        .filter(({ shape, box: { left, right, top, bottom } }) => left <= x && x <= right && top <= y && y <= bottom
          && shape.compareDocumentPosition(element) & Node.DOCUMENT_POSITION_FOLLOWING && covers(shape, x, y))
        .reduce((below, { color }) => over(color, below), background(svg.parentElement));
    };
    const found = [];
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode.data.trim();
      const element = texts.currentNode.parentElement;
      // numbers of interactive heat maps lie on an image: tests/plots has their colours
      // what cannot be acted on need not stand out (WCAG 2.2, 1.4.3)
      if (!text || element.closest("script, style, title, noscript, .textpoint, :disabled")) continue;
      if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const svg = element.closest("svg");
      const style = getComputedStyle(element);
      const below = svg ? behindDrawn(element, svg) : background(element);
      const ink = rgba(svg ? style.fill : style.color);
      ink[3] *= opacity(element);
      const ratio = contrast(over(ink, below), below);
      if (ink[3] > 0 && ratio < least) found.push([ratio, text.slice(0, 40), named(element)]);
    }
    return found;
  }

  // What makes the page wider than the window; empty where it is not.
  function sideways() {
    const { scrollWidth, clientWidth } = document.documentElement;
    if (scrollWidth <= clientWidth) return "";
    const wide = [...document.body.querySelectorAll("*")]
      .filter((element) => element.getBoundingClientRect().right > clientWidth + 1).slice(0, 3);
    return `${scrollWidth} > ${clientWidth}: ${wide.map(named).join(", ")}`;
  }

  // What a user can act on: shown, and not passed through by the mouse. A label counts where what
  // it is of is not shown; of buttons that are alternatives, Tab reaches one, arrow keys the others.
  function controls() {
    const every = "a[href], button, input, select, textarea, summary, [tabindex], [onclick], [role=button], label[for]";
    const alike = (element) => document.querySelectorAll(`input[type=radio][name="${element.name}"]`);
    const first = (element) => [...alike(element)].find((one) => one.checked) || alike(element)[0];
    const group = "[role=group], [role=listbox], [role=grid], [role=toolbar], [role=tablist]";
    // an input may be transparent, under what it looks like
    const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: element.localName !== "input" });
    return [...document.querySelectorAll(every)].filter((element) => {
      const { width, height } = element.getBoundingClientRect();
      if (!shown(element) || width * height === 0 || getComputedStyle(element).pointerEvents === "none") return false;
      if (element.disabled || element.type === "hidden" || element.closest("[inert]")) return false;
      if (element.localName === "label" && element.control && shown(element.control)) return false;
      if (element.type === "radio") return element === first(element);
      return element.tabIndex >= 0 || !element.closest(group)?.querySelector("[tabindex='0']");
    });
  }

  const reached = new Set();
  document.addEventListener("focusin", ({ target }) => reached.add(target));
  let asked = [];
  const left = () => asked.filter((element) => !reached.has(element));

  return {
    contrasts,
    sideways,
    left: () => left().map((element) => element.outerHTML.replace(/\s+/g, " ").slice(0, 120)),
    // open what is folded, and still what moves, so that all of it is looked at
    prepare() {
      const still = document.createElement("style");
      still.textContent = "*, *::before, *::after { transition: none !important; animation: none !important; }";
      document.head.append(still);
      for (const part of document.querySelectorAll("details")) part.open = true;
    },
    // Tab begins at the top of the page, and what is shown there is asked for: what comes and goes
    // with scrolling is not. How many controls there are; none where all were reached before.
    async begin() {
      const top = document.createElement("span");
      top.tabIndex = -1;
      document.body.prepend(top);
      top.focus();
      top.remove();
      const frame = () => new Promise((next) => requestAnimationFrame(next));
      await frame();
      await frame();
      asked = controls();
      return left().length ? asked.length : 0;
    },
  };
})();
0;
