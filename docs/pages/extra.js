"use strict";
// What the theme leaves to the mouse: on narrow windows, Tab reaches the buttons of the menu and of
// the search, and passes over the menu while it is closed. Enter works already.
(() => {
  const drawer = document.getElementById("__drawer");
  const menu = document.querySelector(".md-sidebar--primary");
  const narrow = matchMedia("(max-width: 76.2344em)");
  const closed = () => { menu.inert = narrow.matches && !drawer.checked; };
  // the theme has no search in pages that are opened as files, and leaves its button
  if (location.protocol === "file:") document.querySelector(".md-header label[for='__search']")?.remove();
  for (const label of document.querySelectorAll(".md-header label[for='__drawer'], .md-header label[for='__search']")) {
    label.tabIndex = 0;
    label.role = "button";
    label.ariaLabel ||= label.htmlFor === "__drawer" ? "Menu" : "Search";
  }
  if (drawer && menu) {
    drawer.addEventListener("change", closed);
    narrow.addEventListener("change", closed);
    closed();
  }
})();
