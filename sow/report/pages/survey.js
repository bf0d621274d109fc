// The survey: window.DATA holds blind names only. Answers live in localStorage until they are saved to a file.
"use strict";
(() => {
  const data = window.DATA;
  const get = (id) => document.getElementById(id);
  const place = (rater) => `sow-survey-${data.survey}-${rater}`;
  const parts = ["start", "part", "question", "end"];
  let state = null;   // { rater, started, at, answers: { number: { choice, position, seconds } } }
  let screens = [];   // { part } opens a criterion, { number } asks a question, { end } thanks
  let since = 0;      // when this question came up

  // What the browser remembers; some forbid it, and then the answers live as long as the page.
  let forbidden = false;
  function read(name) {
    try { return JSON.parse(localStorage.getItem(name)); } catch { return null; }
  }
  function write(name, value) {
    try { localStorage.setItem(name, JSON.stringify(value)); } catch { forbidden = true; }
    get("warning").textContent = forbidden
      ? "This browser keeps nothing: do not close the page before you have saved your answers." : "";
  }

  const questions = () => data.assignments[state.rater];
  const count = () => Object.keys(state.answers).length;
  const keep = () => write(place(state.rater), state);

  function show(id, focus) {
    for (const part of parts) get(part).hidden = part !== id;
    get("where").hidden = get("saving").hidden = id === "start";
    if (focus) get(focus).focus();
    window.scrollTo(0, 0);
  }

  function stored() {
    const found = read(place(get("rater").value));
    const answered = found ? Object.keys(found.answers).length : 0;
    get("stored").textContent = found ? `${answered} answered in this browser.` : "";
    get("go").textContent = found ? "Continue" : "Start";
    get("again").hidden = !found;
    return found;
  }

  function start(fresh) {
    const rater = get("rater").value;
    if (!(rater in data.assignments)) return;
    state = (!fresh && stored()) || { rater, started: new Date().toISOString(), at: 0, answers: {} };
    write(`sow-survey-${data.survey}`, rater);
    screens = [];
    questions().forEach(([criterion], number) => {
      if (!number || questions()[number - 1][0] !== criterion) screens.push({ part: criterion });
      screens.push({ number });
    });
    screens.push({ end: true });
    go(Math.min(state.at, screens.length - 1));
  }

  function go(at) {
    state.at = at;
    keep();
    get("saved").textContent = "";
    get("progress").max = questions().length;
    get("progress").value = count();
    const screen = screens[at];
    if ("part" in screen) return openPart(screen.part);
    if ("number" in screen) return ask(screen.number);
    get("progress-label").textContent = `${count()} of ${questions().length} answered`;
    get("text").value = JSON.stringify(answers(), null, 1);
    show("end", "end-title");
  }

  function openPart(number) {
    const criterion = data.criteria[number];
    const order = [...new Set(questions().map((q) => q[0]))];
    get("progress-label").textContent = `${count()} of ${questions().length} answered`;
    get("part-title").textContent = `Part ${order.indexOf(number) + 1} of ${order.length}`;
    get("part-question").textContent = criterion.question;
    get("part-help").textContent = criterion.help;
    get("part-shown").textContent = criterion.conditions
      ? "The picture and the sentence that were given are shown above the images."
      : "Only the images are shown: judge them by themselves.";
    show("part", "part-title");
  }

  function ask(number) {
    const [at, item, order] = questions()[number];
    const criterion = data.criteria[at], given = data.items[item];
    get("progress-label").textContent = `Question ${number + 1} of ${questions().length}`;
    get("legend").textContent = criterion.question;
    get("help").textContent = criterion.help;
    get("conditions").hidden = !criterion.conditions;
    if (criterion.conditions) get("condition").src = given.condition;
    else get("condition").removeAttribute("src");
    get("prompt").textContent = criterion.conditions ? given.prompt : "";
    const chosen = state.answers[number]?.choice;
    get("choices").replaceChildren(...order.map((name, i) => {
      const label = document.createElement("label"), radio = document.createElement("input");
      const image = document.createElement("img");
      Object.assign(radio, { type: "radio", name: "choice", value: name, checked: name === chosen });
      Object.assign(image, { src: `images/${name}.png`, alt: `image ${i + 1}` });
      label.append(image, radio, ` ${i + 1}`);
      return label;
    }));
    get("next").disabled = !chosen;
    since = performance.now();
    show("question", "legend");
    const after = questions()[number + 1];
    if (after) for (const name of after[2]) new Image().src = `images/${name}.png`;
  }

  function choose(position) {
    const radios = get("choices").querySelectorAll("input");
    if (!radios[position]) return;
    const number = screens[state.at].number;
    radios[position].checked = true;
    const seconds = (state.answers[number]?.seconds ?? 0) + (performance.now() - since) / 1000;
    since = performance.now();
    state.answers[number] = { choice: radios[position].value, position: position + 1, seconds };
    get("next").disabled = false;
    get("progress").value = count();
    keep();
  }

  function answers() {
    return {
      format: "sow preference answers", survey: data.survey, rater: Number(state.rater),
      complete: count() === questions().length, started: state.started, saved: new Date().toISOString(),
      answers: Object.entries(state.answers).map(([number, given]) => {
        const [criterion, item] = questions()[number];
        return {
          number: Number(number), criterion: data.criteria[criterion].name, item,
          choice: given.choice, position: given.position, seconds: Number(given.seconds.toFixed(1)),
        };
      }),
    };
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(answers(), null, 1)], { type: "application/json" }));
    link.download = `answers-${data.survey}-${state.rater}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    get("saved").textContent = `${count()} of ${questions().length} answers saved as ${link.download}.`;
  }

  function forward() {
    const screen = screens[state.at];
    if ("number" in screen && !state.answers[screen.number]) return;
    if (state.at < screens.length - 1) go(state.at + 1);
  }

  function keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !state || !get("start").hidden) return;
    if (event.target.closest("textarea, summary")) return;
    const asking = "number" in screens[state.at];
    if (asking && /^[1-9]$/.test(event.key)) {
      choose(Number(event.key) - 1);
    } else if (event.key === "Enter" && !event.target.closest("button")) {
      event.preventDefault();
      if (!("end" in screens[state.at])) forward();
    } else if (event.key === "Backspace" && state.at > 0) {
      event.preventDefault();
      go(state.at - 1);
    }
  }

  document.title = data.title;
  get("title").textContent = data.title;
  get("introduction").textContent = data.introduction;
  const raters = Object.keys(data.assignments).length;
  get("rater").max = raters;
  get("raters").textContent = `(1 to ${raters}, as you were told)`;
  const asked = new URLSearchParams(location.search).get("rater");
  get("rater").value = asked ?? read(`sow-survey-${data.survey}`) ?? (raters === 1 ? 1 : "");
  stored();
  get("rater").addEventListener("input", stored);
  get("start").addEventListener("submit", (event) => { event.preventDefault(); start(false); });
  get("again").addEventListener("click", () => {
    if (confirm("Forget the answers in this browser and start over?")) start(true);
  });
  get("begin").addEventListener("click", forward);
  get("question").addEventListener("submit", (event) => { event.preventDefault(); forward(); });
  get("choices").addEventListener("change", (event) => {
    choose([...get("choices").querySelectorAll("input")].indexOf(event.target));
  });
  get("back").addEventListener("click", () => go(state.at - 1));
  get("review").addEventListener("click", () => go(state.at - 1));
  get("save").addEventListener("click", save);
  document.addEventListener("keydown", keys);
})();
