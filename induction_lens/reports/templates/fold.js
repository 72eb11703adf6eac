"use strict";
(() => {
  const parts = [...document.querySelectorAll("details")];
  const all = (open) => { for (const part of parts) part.open = open; };
  for (const button of document.querySelectorAll("[data-fold]")) {
    button.addEventListener("click", () => all(button.dataset.fold === "open"));
  }
  const unfold = () => { // what a link leads to is not left folded
    for (let part = document.getElementById(location.hash.slice(1)); part; part = part.parentElement) {
      if (part.localName === "details") part.open = true;
    }
  };
  addEventListener("hashchange", unfold);
  if (location.hash) unfold();
  addEventListener("beforeprint", () => all(true));
})();
