"use strict";
// What the reader chose by the site's switch, to be asked like a media query: `matches`, and `change`.
window.darkPage = new (class extends EventTarget {
  get matches() {
    return document.body.dataset.mdColorScheme === "slate";
  }
})();
new MutationObserver(() => window.darkPage.dispatchEvent(new Event("change"))).observe(document.body, {
  attributeFilter: ["data-md-color-scheme"],
});
