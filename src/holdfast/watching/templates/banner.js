// The banner asks this page's own server for progress, and swaps it in. The report below it is loaded again only when
// asked for, or when the run has finished; then what was revealed, typed and scrolled to is put back.
(() => {
  const KEPT = "holdfast-watch", EVERY = 2000;
  const bar = document.getElementById("watch"), body = document.getElementById("watch-progress"), news = document.getElementById("watch-news");
  const fields = () => [...document.querySelectorAll("main input, main select, main textarea")];
  const folds = () => [...document.querySelectorAll("main details")];
  let silent = 0, offered = "";
  function keep() {
    const open = folds().flatMap((fold, place) => (fold.open ? [place] : []));
    const typed = fields().map((field) => (["checkbox", "radio"].includes(field.type) ? field.checked : field.value));
    sessionStorage.setItem(KEPT, JSON.stringify({ open, typed, x: scrollX, y: scrollY }));
  }
  function put_back() {
    const kept = JSON.parse(sessionStorage.getItem(KEPT) || "null");
    sessionStorage.removeItem(KEPT);
    if (!kept) return;
    history.scrollRestoration = "manual";
    folds().forEach((fold, place) => { fold.open = fold.open || kept.open.includes(place); });
    if (fields().length === kept.typed.length) {
      fields().forEach((field, place) => {
        const name = ["checkbox", "radio"].includes(field.type) ? "checked" : "value";
        if (field[name] === kept.typed[place]) return;
        field[name] = kept.typed[place];
        for (const what of ["input", "change"]) field.dispatchEvent(new Event(what, { bubbles: true }));
      });
    }
    const back = () => scrollTo(kept.x, kept.y);
    requestAnimationFrame(back);
    setTimeout(back, 400);  // once the charts are drawn
  }
  function reload() { keep(); location.reload(); }
  function offer(version) {
    if (offered === version) return;
    offered = version;
    const button = document.createElement("button");
    button.textContent = "New results: show them";
    button.addEventListener("click", reload);
    news.replaceChildren(button);
  }
  async function ask() {
    try {
      const answer = await fetch("progress", { cache: "no-store", credentials: "omit" });
      if (!answer.ok) throw new Error(answer.status);
      const told = await answer.json();
      silent = 0;
      const open = new Set([...body.querySelectorAll("details[open]")].map((fold) => fold.id));
      body.innerHTML = told.html;
      for (const fold of body.querySelectorAll("details")) fold.open = open.has(fold.id);
      if (told.version !== watched.version) {
        if (told.over || watched.version === "") return reload();
        offer(told.version);
      }
      if (told.over && told.stale) {  // the report of all of the run cannot be made: the new page says so
        if (!watched.stale) return reload();
        return;
      }
      if (told.over && told.version === watched.version) {
        bar.className = "finished";
        news.textContent = "The run has finished, and this page shows all of it.";
        return;
      }
    } catch (error) {
      silent += 1;
      if (silent === 3) news.textContent = "The watching process does not answer: this page is as it was. Start `holdfast watch` again, or open the run's report.html.";
    }
    setTimeout(ask, EVERY);
  }
  put_back();
  setTimeout(ask, EVERY);
})();
