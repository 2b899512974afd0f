// Keeps the page up to date: the same address is asked again, and its main part is exchanged, unless the reader is busy in it.
"use strict";
(() => {
  const EVERY = 5000;
  const main = document.getElementById("main");
  const note = document.getElementById("as-of");
  if (!main || !note || !window.fetch) return;

  const busy = () => {
    const at = document.activeElement;
    const typing = at && main.contains(at) && /^(INPUT|SELECT|TEXTAREA)$/.test(at.tagName);
    const chosen = main.querySelector("input[type=checkbox]:checked, input[data-changed], textarea[data-changed]");
    const selected = String(window.getSelection() || "") !== "";
    return typing || chosen || selected || document.hidden;
  };
  main.addEventListener("input", (event) => {
    if (event.target.type !== "checkbox") event.target.setAttribute("data-changed", "");
  });
  main.addEventListener("change", (event) => {
    if (event.target.id !== "all") return;
    for (const box of main.querySelectorAll("input[name=id]")) box.checked = event.target.checked;
  });

  // What is open or focused stays so: it is found again by its place.
  const place = (node) => {
    const path = [];
    for (; node && node !== main; node = node.parentElement) path.unshift([...node.parentElement.children].indexOf(node));
    return path;
  };
  const at = (path) => path.reduce((node, index) => node && node.children[index], main);

  const update = async () => {
    if (busy()) return;
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, credentials: "same-origin", redirect: "error" });
      if (!answer.ok && answer.status !== 503) throw new Error(answer.status);
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = next.getElementById("main");
      if (!fresh || busy()) return;
      const said = fresh.querySelector(".done");
      if (said) said.remove();
      if (fresh.innerHTML.trim() !== main.innerHTML.trim()) {
        const focused = main.contains(document.activeElement) ? place(document.activeElement) : null;
        const open = [...main.querySelectorAll("details")].map((one) => one.open);
        main.replaceChildren(...document.importNode(fresh, true).childNodes);
        main.querySelectorAll("details").forEach((one, index) => { if (open[index]) one.open = true; });
        const back = focused && at(focused);
        if (back) back.focus({ preventScroll: true });
        document.title = next.title;
      }
      const footer = document.querySelector("footer");
      footer.replaceChildren(...document.importNode(next.querySelector("footer"), true).childNodes);
      footer.classList.remove("lost");
    } catch (error) {
      const lost = document.getElementById("as-of");
      if (lost) lost.textContent = lost.dataset.lost;
      document.querySelector("footer").classList.add("lost");
    }
  };
  if (main.querySelector(".done")) {
    const clean = new URL(location.href);
    clean.searchParams.delete("done");
    clean.searchParams.delete("count");
    history.replaceState(null, "", clean);
  }
  setInterval(update, EVERY);
})();
