// The gallery: window.DATA as a table of images that is filtered, sorted and walked with the keyboard.
"use strict";
(() => {
  const data = window.DATA;
  const get = (id) => document.getElementById(id);
  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text !== undefined && text !== null) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const words = (name) => name.replaceAll("_", " ");
  const number = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
  };
  const measured = (cell, metric) => {
    const value = cell ? cell.metrics[metric] : undefined;
    return value === null || value === undefined ? null : Number(value);
  };
  const failed = (cell) => Boolean(cell && data.failure && cell.metrics[data.failure]);
  const mean = (values) => values.length ? values.reduce((a, b) => a + b, 0) / values.length : null;

  const controls = ["search", "setting", "failure", "metric", "sort", "order", "size"];
  let shown = [];   // groups in order
  let place = [0, 0];  // [group, row] that the keyboard stands on

  const option = (select, value, text) => select.append(make("option", text, { value }));

  function fill() {
    document.title = data.title;
    get("title").textContent = data.title;
    get("about").textContent = data.about ? `Made by ${data.about}.` : "";
    const settings = [...new Set(data.groups.map((g) => g.setting).filter(Boolean))];
    option(get("setting"), "", "all");
    for (const name of settings) option(get("setting"), name, name);
    const failure = get("failure");
    option(failure, "", "all groups");
    if (data.failure) {
      option(failure, "any", "some row failed");
      option(failure, "none", "no row failed");
      option(failure, "differ", "rows differ");
      data.rows.forEach((row, i) => option(failure, `row${i}`, `failed: ${row.label}`));
    }
    failure.disabled = !data.failure;
    for (const name of data.metrics) option(get("metric"), name, words(name));
    option(get("sort"), "", "order of the table");
    option(get("sort"), "mean", "mean over rows");
    option(get("sort"), "spread", "difference between rows");
    data.rows.forEach((row, i) => option(get("sort"), `row${i}`, row.label));
  }

  function matches(group) {
    const text = get("search").value.trim().toLowerCase();
    if (text && !`${group.id} ${group.prompt} ${group.seed}`.toLowerCase().includes(text)) return false;
    if (get("setting").value && group.setting !== get("setting").value) return false;
    const wanted = get("failure").value;
    if (!wanted) return true;
    const bad = group.cells.map(failed);
    if (wanted === "any") return bad.some(Boolean);
    if (wanted === "none") return !bad.some(Boolean);
    if (wanted === "differ") return bad.some(Boolean) && group.cells.some((c, i) => c && !bad[i]);
    return bad[Number(wanted.slice(3))];
  }

  function rank(group) {
    const metric = get("metric").value, by = get("sort").value;
    if (by.startsWith("row")) return measured(group.cells[Number(by.slice(3))], metric);
    const values = group.cells.map((c) => measured(c, metric)).filter((v) => v !== null);
    if (by === "spread") return values.length > 1 ? Math.max(...values) - Math.min(...values) : null;
    return mean(values);
  }

  function arrange() {
    shown = data.groups.filter(matches);
    if (get("sort").value) {
      const sign = get("order").value === "down" ? -1 : 1;
      const keyed = shown.map((group, i) => [rank(group), i, group]);
      keyed.sort(([a, i], [b, j]) => {  // groups without the number come last in either order
        if (a === null || b === null) return (a === null) - (b === null) || i - j;
        return sign * (a - b) || i - j;
      });
      shown = keyed.map(([, , group]) => group);
    }
    place = [0, 0];
    draw();
    remember();
  }

  function drawHead() {
    const metric = get("metric").value;
    const line = make("tr");
    line.append(make("th", "condition and prompt", { scope: "col" }));
    data.rows.forEach((row, i) => {
      const head = make("th", null, { scope: "col", title: row.note || row.name });
      head.append(make("strong", row.label));
      const cells = shown.map((g) => g.cells[i]).filter(Boolean);
      const values = cells.map((c) => measured(c, metric)).filter((v) => v !== null);
      if (metric) head.append(make("small", `${words(metric)} ${number(mean(values))}, n ${values.length}`));
      if (metric in row.paper) head.append(make("small", `paper ${number(row.paper[metric])}`));
      if (data.failure) head.append(make("small", `failed ${cells.filter(failed).length} of ${cells.length}`));
      line.append(head);
    });
    get("head").replaceChildren(line);
  }

  function drawCell(group, i, at) {
    const cell = group.cells[i], box = make("td");
    if (!cell) {
      box.append(make("span", "no image"));
      return box;
    }
    const metric = get("metric").value;
    const label = `${data.rows[i].label}, ${group.id}, seed ${group.seed}${failed(cell) ? ", failed" : ""}`;
    const button = make("button", null, {
      type: "button", class: failed(cell) ? "cell failed" : "cell", "aria-label": `${label}: enlarge`, tabindex: -1,
    });
    button.dataset.group = at;
    button.dataset.row = i;
    button.append(make("img", null, { src: cell.src, alt: label, loading: "lazy", decoding: "async" }));
    if (metric) button.append(make("small", number(cell.metrics[metric]), { class: "number" }));
    if (failed(cell)) button.append(make("small", "failed", { class: "mark" }));
    box.append(button);
    return box;
  }

  function draw() {
    drawHead();
    const lines = shown.map((group, at) => {
      const line = make("tr");
      line.dataset.group = group.id;
      const head = make("th", null, { scope: "row" });
      if (group.condition) {
        head.append(make("img", null, { src: group.condition, alt: "visual condition", loading: "lazy" }));
      }
      head.append(make("span", group.prompt));
      const named = group.id.startsWith(group.setting) ? group.id : `${group.setting} ${group.id}`;
      head.append(make("small", ` ${named}, seed ${group.seed}`));
      line.append(head, ...data.rows.map((_, i) => drawCell(group, i, at)));
      return line;
    });
    get("body").replaceChildren(...lines);
    get("count").textContent = `${shown.length} of ${data.groups.length} groups`;
    const first = document.querySelector(".cell");
    if (first) first.tabIndex = 0;
  }

  const button = (group, row) => document.querySelector(`.cell[data-group="${group}"][data-row="${row}"]`);

  function step(rows, groups) {  // to the next image in this direction, over places without one
    let [group, row] = place;
    for (;;) {
      group += groups;
      row += rows;
      if (group < 0 || row < 0 || group >= shown.length || row >= data.rows.length) return false;
      if (shown[group].cells[row]) break;
    }
    stand(group, row);
    return true;
  }

  function stand(group, row) {
    const before = button(...place), now = button(group, row);
    if (before) before.tabIndex = -1;
    place = [group, row];
    now.tabIndex = 0;
    if (!get("viewer").open) now.focus();
  }

  function enlarge() {
    const [at, row] = place, group = shown[at], cell = group.cells[row];
    get("viewer-title").textContent = `${data.rows[row].label}, ${group.id}, seed ${group.seed}`;
    get("viewer-prompt").textContent = group.prompt;
    const condition = get("viewer-condition");
    condition.parentElement.hidden = !group.condition;
    if (group.condition) condition.src = group.condition;
    condition.alt = "visual condition";
    get("viewer-image").src = cell.src;
    get("viewer-image").alt = `generated image, ${data.rows[row].label}`;
    get("viewer-row").textContent = data.rows[row].note || data.rows[row].label;
    get("viewer-numbers").replaceChildren(...data.metrics.map((name) => {
      const line = make("tr");
      line.append(make("th", words(name), { scope: "row" }), make("td", number(cell.metrics[name])));
      return line;
    }));
    if (!get("viewer").open) get("viewer").showModal();
  }

  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  function keys(event) {
    const typing = event.target.closest("input, select");
    if (event.altKey || event.ctrlKey || event.metaKey || typing) return;
    const viewing = get("viewer").open;
    if (event.key in moves && (viewing || event.target.closest(".cell"))) {
      event.preventDefault();
      if (step(...moves[event.key]) && viewing) enlarge();
    } else if (viewing) {
      return;
    } else if (event.key === "/") {
      event.preventDefault();
      get("search").focus();
    } else if (event.key === "f" && data.failure) {
      const select = get("failure");
      select.selectedIndex = (select.selectedIndex + 1) % select.options.length;
      arrange();
    } else if (event.key === "o") {
      get("order").value = get("order").value === "up" ? "down" : "up";
      arrange();
    }
  }

  function remember() {  // the view is part of the address, so that it can be passed on
    const view = new URLSearchParams();
    for (const id of controls) if (get(id).value) view.set(id, get(id).value);
    try { history.replaceState(null, "", `#${view}`); } catch { /* some browsers forbid it on file:// */ }
  }

  function recall() {
    for (const [id, value] of new URLSearchParams(location.hash.slice(1))) {
      if (!controls.includes(id)) continue;
      const before = get(id).value;
      get(id).value = value;
      if (get(id).selectedIndex === -1) get(id).value = before;  // no such choice in this table
    }
  }

  function resize() {
    document.documentElement.style.setProperty("--side", `${get("size").value}px`);
  }

  fill();
  recall();
  resize();
  arrange();
  for (const id of controls) {
    get(id).addEventListener("input", id === "size" ? () => { resize(); remember(); } : arrange);
  }
  get("controls").addEventListener("submit", (event) => event.preventDefault());
  get("body").addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    stand(Number(cell.dataset.group), Number(cell.dataset.row));
    enlarge();
  });
  get("viewer").addEventListener("close", () => { const cell = button(...place); if (cell) cell.focus(); });
  get("viewer").addEventListener("click", (event) => { if (event.target === get("viewer")) get("viewer").close(); });
  get("close").addEventListener("click", () => get("viewer").close());
  for (const [id, key] of [["previous", "ArrowLeft"], ["next", "ArrowRight"], ["above", "ArrowUp"], ["below", "ArrowDown"]]) {
    get(id).addEventListener("click", () => { if (step(...moves[key])) enlarge(); });
  }
  document.addEventListener("keydown", keys);
})();
