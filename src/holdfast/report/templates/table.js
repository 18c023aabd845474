"use strict";
// Tables that can be sorted and filtered: rows and columns are read from the table itself, which is whole without this.
{
  const add = (parent, tag, values = {}) => parent.appendChild(Object.assign(document.createElement(tag), values));
  const words = (element) => element.textContent.trim().replace(/\s+/g, " ");
  const NUMBER = /-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?/gi;
  const collator = new Intl.Collator("en", { numeric: true });

  /** The last number of a cell (`0.10 → 0.90` is 0.9), a lower bound just above it, or null. */
  function amount(text) {
    const found = text.match(NUMBER);
    return found && { value: Number(found.at(-1).replaceAll(",", "")), beyond: /[>≥]/.test(text) };
  }
  /** Which of two cells of a column comes first; what has no value is last in both directions. */
  function compared(one, other, isNumber, sign) {
    if (!isNumber) return sign * collator.compare(one, other);
    const [a, b] = [amount(one), amount(other)];
    if (!a || !b) return !a - !b;
    return sign * (a.value - b.value || a.beyond - b.beyond);
  }

  function tool(table, name) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    const texts = rows.map((row) => [...row.cells].map(words)), wholes = rows.map((row) => words(row).toLowerCase());
    const columns = heads.map((head) => words(head).toLowerCase().replace(/[^a-z0-9]+/g, "-"));
    const form = document.createElement("form"), status = document.createElement("p"), selects = [];
    let sorted = { column: "", order: "" };

    form.className = "filters";
    form.setAttribute("role", "search");
    form.setAttribute("aria-label", name);
    const label = (text) => add(form, "label", { textContent: text + " " });
    const search = add(label("Text"), "input", { type: "search", name: "text", autocomplete: "off" });
    heads.forEach((head, column) => {
      if (!("filter" in head.dataset)) return;
      const select = add(label(words(head)), "select", { name: columns[column] });
      add(select, "option", { value: "", textContent: "all" });
      const values = [...new Set(texts.map((row) => row[column]))].sort(collator.compare);
      values.forEach((value) => add(select, "option", { value, textContent: value }));
      selects.push([select, column]);
    });
    const clear = add(form, "button", { type: "button", textContent: "Clear" });
    status.className = "quiet";
    status.setAttribute("role", "status");

    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const falls = sorted.column === columns[column] && sorted.order === "ascending";
        sorted = { column: columns[column], order: falls ? "descending" : "ascending" };
        sort();
        remember();
      });
    });

    function sort() {
      const column = columns.indexOf(sorted.column), sign = sorted.order === "descending" ? -1 : 1;
      heads.forEach((head, at) => (at === column ? head.setAttribute("aria-sort", sorted.order) : head.removeAttribute("aria-sort")));
      const places = rows.map((_, place) => place);
      if (column >= 0) {
        const isNumber = heads[column].classList.contains("num");
        places.sort((a, b) => compared(texts[a][column], texts[b][column], isNumber, sign) || a - b);
      }
      body.append(...places.map((place) => rows[place]));
    }
    function filter() {
      const text = search.value.trim().toLowerCase();
      let shown = 0;
      rows.forEach((row, place) => {
        row.hidden = !wholes[place].includes(text) || selects.some(([select, column]) => select.value && texts[place][column] !== select.value);
        shown += !row.hidden;
      });
      status.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} ${name.toLowerCase()} shown.`;
      clear.disabled = shown === rows.length;
    }
    function remember() {
      const state = new URLSearchParams([search, ...selects.map(([select]) => select)].filter((field) => field.value).map((field) => [field.name, field.value]));
      if (sorted.column) { state.set("sort", sorted.column); state.set("order", sorted.order); }
      history.replaceState(null, "", state.size ? `#${table.dataset.table}?${state}` : location.pathname + location.search);
    }
    function recall() {
      const [anchor, rest] = location.hash.slice(1).split("?");
      if (anchor !== table.dataset.table || rest === undefined) return;
      const state = new URLSearchParams(rest);
      for (const field of [search, ...selects.map(([select]) => select)]) field.value = state.get(field.name) ?? "";
      sorted = { column: state.get("sort") ?? "", order: state.get("order") === "descending" ? "descending" : "ascending" };
      sort();
      document.getElementById(anchor)?.scrollIntoView();
    }
    form.addEventListener("input", () => { filter(); remember(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    clear.addEventListener("click", () => {
      [search, ...selects.map(([select]) => select)].forEach((field) => { field.value = ""; });
      filter();
      remember();
      search.focus();
    });
    addEventListener("hashchange", () => { recall(); filter(); });
    const around = table.closest(".scroll") ?? table;
    around.before(form, status);
    recall();
    filter();
  }
  for (const table of document.querySelectorAll("table[data-table]")) tool(table, table.dataset.named);

  // What scrolls can be reached and scrolled with the keyboard, and says what it is.
  for (const box of document.querySelectorAll(".scroll:not([tabindex])")) {
    const title = box.closest("section")?.querySelector("h2");
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", title ? words(title) : "Table");
  }
}
