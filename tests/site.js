// What is wrong with the page as it is shown now; see site.py.
(async () => {
  const settled = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  // what fades in is looked at when it is there
  const still = document.createElement("style");
  still.textContent = "*, *::before, *::after { transition: none !important; animation: none !important; }";
  document.head.append(still);
  await settled();
  const rgba = (text) => {
    const [r, g, b, a] = (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
    return [r, g, b, a === undefined ? 1 : a];
  };
  const over = (top, below) => {
    const a = top[3] + below[3] * (1 - top[3]);
    const mixed = [0, 1, 2].map((i) => (top[i] * top[3] + below[i] * below[3] * (1 - top[3])) / (a || 1));
    return [...mixed, a];
  };
  const behind = new Map();
  const background = (element) => {
    if (!element) return [255, 255, 255, 1];
    if (!behind.has(element)) {
      const own = rgba(getComputedStyle(element).backgroundColor);
      behind.set(element, own[3] === 1 ? own : over(own, background(element.parentElement)));
    }
    return behind.get(element);
  };
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const pale = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || element.closest("script, style, noscript, [hidden], [aria-hidden=true]")) continue;
    if (!element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const below = background(element);
    const drawn = element instanceof SVGElement ? style.fill : style.color;
    let ink = rgba(drawn);
    for (let up = element; up; up = up.parentElement) ink[3] *= Number(getComputedStyle(up).opacity);
    ink = over(ink, below);
    const [light, dark] = [luminance(ink), luminance(below)].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5)) {
      const where = `${element.tagName.toLowerCase()}.${element.getAttribute("class") || ""}`;
      pale.add(`${where} ${ratio.toFixed(2)}: ${texts.currentNode.data.trim().slice(0, 30)}`);
    }
  }
  const root = document.documentElement;
  const wide = [];
  if (root.scrollWidth > root.clientWidth) {
    for (const element of document.querySelectorAll("body *")) {
      if (element.getBoundingClientRect().right > root.clientWidth + 1 && wide.length < 3) {
        wide.push(`${element.tagName.toLowerCase()}.${element.getAttribute("class") || ""}`);
      }
    }
  }
  return {
    scheme: document.body.dataset.mdColorScheme || null,
    sideways: root.scrollWidth > root.clientWidth ? `${root.scrollWidth} > ${root.clientWidth}: ${wide.join(", ")}` : null,
    pale: [...pale].slice(0, 8),
  };
})()
