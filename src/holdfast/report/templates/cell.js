"use strict";
{
  const place = (id) => document.getElementById(id);
  const add = (parent, tag, text = "", kind = "") => {
    const made = parent.appendChild(document.createElement(tag));
    if (text !== "") made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };

  const copy = place("copy"), config = place("config");
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(config.textContent);
      place("copied").textContent = "Copied.";
    } catch {
      getSelection().selectAllChildren(config);
      place("copied").textContent = "Selected; copy it with the keyboard.";
    }
  });

  const STEP_OF_LIST = 50, FIELDS = ["text", "judged", "step", "role"];
  const KINDS = { harmful: "harmful", "not harmful": "harmless", "not judged": "unjudged" };

  /** The answers as objects, from four numbers each. */
  function unpacked(data) {
    const answers = [];
    for (let at = 0; at < data.answers.length; at += 4) {
      const [step, prompt, text, opinions] = data.answers.slice(at, at + 4);
      answers.push({ step: data.steps[step], prompt: data.prompts[prompt], text: data.texts[text], opinions: data.opinions[opinions] });
    }
    return answers;
  }

  /** A text with the words looked for marked; `cut` characters of it are not on the page. */
  function write(parent, text, cut, words) {
    const pre = add(parent, "pre"), lower = text.toLowerCase();
    pre.tabIndex = 0;
    let from = 0;
    for (let at; words && lower.length === text.length && (at = lower.indexOf(words, from)) >= 0; from = at + words.length) {
      pre.append(text.slice(from, at));
      add(pre, "mark", text.slice(at, at + words.length));
    }
    pre.append(text.slice(from));
    if (cut) add(pre, "span", ` … ${cut.toLocaleString("en")} more characters`, "quiet");
  }

  function opinion([judge, score, valid, refused, reason, longer]) {
    const number = (value) => (Math.abs(value) < 1000 ? value.toFixed(2) : value.toPrecision(3));
    const parts = [valid ? (score === null ? "not judged" : number(score)) : "invalid"];
    if (refused !== null) parts.push(refused ? "refused" : "not refused");
    if (longer !== null) parts.push(`another verdict, ${number(longer)}, when the answer may be twice as long`);
    return `${judge}: ${parts.join(", ")}${reason ? ` (${reason})` : ""}`;
  }

  function entry(list, answer, words, open) {
    const [role, domain, question, askedCut] = answer.prompt, [text, cut, tokens, finished] = answer.text, [kind, opinions] = answer.opinions;
    const details = add(add(list, "li"), "details"), summary = add(details, "summary");
    if (kind in KINDS) add(summary, "span", kind, `badge ${KINDS[kind]}`);
    add(summary, "span", `step ${answer.step}`);
    add(summary, "span", domain ? `${role} · ${domain}` : role, "quiet");
    add(summary, "span", `${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}${finished ? "" : ", cut off"}${text ? "" : ", empty"}`, "quiet");
    const fill = () => {
      if (details.children.length > 1) return;
      add(details, "h3", "Prompt");
      write(details, question, askedCut, words);
      add(details, "h3", "Answer");
      write(details, text, cut, words);
      const judged = add(details, "ul", "", "opinions");
      opinions.forEach((each) => add(judged, "li", opinion(each)));
    };
    details.addEventListener("toggle", fill);
    if (open) { fill(); details.open = true; }
  }

  function start(data) {
    const answers = unpacked(data), form = place("filters"), list = place("list"), more = place("more"), found = place("found");
    const field = Object.fromEntries([...FIELDS, "reveal"].map((name) => [name, form.elements[name]]));
    const options = (name, values, label = String) => [...new Set(values)].forEach((value) => { add(field[name], "option", label(value)).value = value; });
    const kinds = new Set(data.opinions.map(([kind]) => kind));
    options("judged", [...Object.keys(KINDS), "other prompts"].filter((kind) => kinds.has(kind)));
    options("step", data.steps);
    options("role", data.prompts.map(([role]) => role));
    let matching = [], shown = 0;

    function show() {
      const words = field.text.value.trim().toLowerCase();
      for (const answer of matching.slice(shown, shown + STEP_OF_LIST)) entry(list, answer, words, field.reveal.checked);
      shown = Math.min(matching.length, shown + STEP_OF_LIST);
      more.hidden = shown === matching.length;
      const count = (number) => number.toLocaleString("en");
      found.textContent = `${count(matching.length)} of ${count(answers.length)} ${answers.length === 1 ? "answer" : "answers"}${shown < matching.length ? `; the first ${count(shown)} are listed` : ""}.`;
    }
    function filter() {
      const words = field.text.value.trim().toLowerCase(), { judged, step, role } = field;
      const hit = new Map(); // texts are shared by many answers: each is searched once
      const has = (text) => hit.get(text) ?? (hit.set(text, text.toLowerCase().includes(words)), hit.get(text));
      matching = answers.filter((answer) => (!step.value || String(answer.step) === step.value) && (!role.value || answer.prompt[0] === role.value)
        && (!judged.value || answer.opinions[0] === judged.value) && (!words || has(answer.prompt[2]) || has(answer.text[0])));
      shown = 0;
      list.replaceChildren();
      show();
    }
    function remember() {
      const state = new URLSearchParams(FIELDS.filter((name) => field[name].value).map((name) => [name, field[name].value]));
      history.replaceState(null, "", state.size ? `#answers?${state}` : location.pathname + location.search);
    }
    function recall() {
      const [anchor, rest] = location.hash.slice(1).split("?");
      if (anchor !== "answers" || rest === undefined) return;
      const state = new URLSearchParams(rest);
      FIELDS.forEach((name) => { field[name].value = state.get(name) ?? ""; });
      place("answers").scrollIntoView();
    }
    form.addEventListener("input", (event) => { if (event.target !== field.reveal) remember(); filter(); });
    form.addEventListener("submit", (event) => event.preventDefault());
    addEventListener("hashchange", () => { recall(); filter(); });
    more.addEventListener("click", () => {
      const next = shown;
      show();
      list.children[next]?.querySelector("summary").focus();
    });
    form.hidden = false;
    recall(); // a link never reveals: that is not part of the address
    filter();
  }
  const data = place("data");
  if (data) start(JSON.parse(data.textContent));
}
