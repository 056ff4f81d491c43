"use strict";
// One page: asks the server what a payment is made of, sends one, and draws what comes back. Text is only ever set as text.
const SVG = "http://www.w3.org/2000/svg";
const DAY = 86400;
const by = (id) => document.getElementById(id);
let form = null;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

async function ask(path, body) {
  const headers = { accept: "application/json" };
  const token = by("token").value.trim();
  if (token) headers.authorization = `Bearer ${token}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const method = body === undefined ? "GET" : "POST";
  const answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const content = await answer.json();
  if (!answer.ok) throw content;
  return content;
}

function freshId() { return `try-${Date.now().toString(36)}`; }

function freshTime() {
  const scale = { s: 1, ms: 1000, us: 1e6 }[form.time_unit];
  return scale ? String(Math.floor(Date.now() / 1000) * scale) : new Date().toISOString().slice(0, 19) + "Z";
}

function field(column) {
  const id = `field-${column.name}`;
  const input = make("input", { id, name: column.name, "data-kind": column.kind });
  if (column.kind === "number") input.setAttribute("inputmode", "decimal");
  input.value = column.kind === "id" ? freshId() : column.kind === "time" ? freshTime() : form.example[column.name] ?? "";
  const parts = [make("label", { for: id }, column.name), input];
  if (column.choices.length) {
    input.setAttribute("list", `${id}-known`);
    parts.push(make("datalist", { id: `${id}-known` }, ...column.choices.map((value) => make("option", { value }))));
  }
  return make("div", { class: "field" }, ...parts);
}

function build() {
  by("market").textContent = `Market ${form.market}`;
  const fields = by("fields");
  fields.replaceChildren();
  if (form.wire) {
    const area = make("textarea", { id: "row", spellcheck: "false" });
    area.value = JSON.stringify(form.example, null, 1);
    const label = make("label", { for: "row" }, "Payment with its histories, as JSON");
    fields.append(make("div", { class: "field wide" }, label, area));
    by("another").hidden = true;
  } else {
    fields.append(...form.columns.map(field));
  }
}

function payment() {
  if (form.wire) return JSON.parse(by("row").value);
  const row = {};
  for (const input of by("fields").querySelectorAll("input")) row[input.name] = input.value === "" ? null : input.value;
  return row;
}

function number(value, digits = 4) { return value === null || value === undefined ? "–" : value.toFixed(digits); }

function showProblem(problem) {
  const box = by("problem");
  const title = problem.title ?? "The server could not be reached";
  box.replaceChildren(make("strong", {}, title), ` ${problem.detail ?? ""}`);
  if (problem.value) box.append(make("div", { class: "quiet" }, `Got: ${problem.value}`));
  box.hidden = false;
  by("answer").hidden = true;
  by("empty").hidden = true;
  by("token-row").hidden = by("token-row").hidden && problem.rule !== "token";
  const wrong = problem.field && document.getElementById(`field-${problem.field}`);
  if (wrong) { wrong.classList.add("wrong"); wrong.focus(); }
}

// The thresholds that decided about an answer; null if another bundle answered, or there are none.
function thresholdsOf(answer) {
  return form.decisions !== null && form.version === answer.version ? form.decisions : null;
}

function colourOf(answer, thresholds) {
  if (answer.decision === null || thresholds === null) return "var(--accent)";
  if (answer.decision === thresholds.default) return "var(--against)";
  const isStrictest = answer.decision === thresholds.decisions[0].name && thresholds.decisions.length > 1;
  return isStrictest ? "var(--for)" : "var(--middle)";
}

function drawGauge(answer) {
  const thresholds = thresholdsOf(answer);
  const usual = answer.percentile !== null ? "percentile" : "raw_score";
  const name = thresholds !== null ? thresholds.score : usual;
  const [value, caption] = [answer[name], name.replace("_", " ")];
  const point = (share, radius) => {
    const angle = Math.PI * (1 - Math.min(1, Math.max(0, share)));
    return [100 + radius * Math.cos(angle), 100 - radius * Math.sin(angle)];
  };
  const [x, y] = point(value, 80);
  const arc = { fill: "none", "stroke-width": 16, "stroke-linecap": "round" };
  const gauge = by("gauge");
  const decision = answer.decision === null ? "" : `, decision ${answer.decision}`;
  gauge.setAttribute("aria-label", `${caption} ${number(value)}${decision}`);
  gauge.dataset.colour = colourOf(answer, thresholds);
  gauge.replaceChildren(
    draw("path", { ...arc, class: "track", d: "M20 100 A80 80 0 0 1 180 100" }),
    draw("path", { ...arc, stroke: gauge.dataset.colour, d: `M20 100 A80 80 0 0 1 ${x} ${y}` }),
    draw("text", { x: 100, y: 92, "text-anchor": "middle", "font-size": 30 }, `${(100 * value).toFixed(1)} %`),
    draw("text", { x: 100, y: 113, "text-anchor": "middle", "font-size": 12, class: "caption" }, caption),
  );
  for (const limit of thresholds === null ? [] : thresholds.decisions) {
    const [[x1, y1], [x2, y2]] = [point(limit.at_least, 70), point(limit.at_least, 92)];
    gauge.append(draw("line", { x1, y1, x2, y2, class: "limit" }, draw("title", {}, `${limit.name} from ${limit.at_least} on`)));
  }
}

function drawNumbers(answer) {
  const rows = [
    ["Raw score", number(answer.raw_score, 6)], ["Percentile", number(answer.percentile)],
    ["Probability", number(answer.probability, 6)], ["Decision", answer.decision ?? "–"], ["Model", answer.version],
    ["Payment", answer.replayed ? `${answer.id} (answered before)` : answer.id],
  ];
  if (answer.degraded) rows.push(["Degraded", "scored without its histories"]);
  by("numbers").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
}

function drawReasons(reasons) {
  const most = Math.max(1e-9, ...reasons.map((reason) => Math.abs(reason.attribution)));
  by("reasons").replaceChildren(...reasons.map((reason) => {
    const width = 50 * Math.abs(reason.attribution) / most;
    const against = reason.attribution < 0;
    const bar = draw("svg", { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { x: against ? 50 - width : 50, y: 0, width, height: 4, class: against ? "against-fill" : "for-fill" }),
      draw("line", { x1: 50, x2: 50, y1: 0, y2: 4, class: "zero", "vector-effect": "non-scaling-stroke" }));
    const sign = against ? "−" : "+";
    const amount = make("span", { class: "amount" }, `${sign}${Math.abs(reason.attribution).toFixed(2)}`);
    return make("li", {}, make("div", { class: "words" }, make("span", {}, reason.text), amount), bar);
  }));
}

function age(seconds) {
  for (const [size, unit] of [[DAY, "d"], [3600, "h"], [60, "min"]]) if (seconds >= size) return `${Math.round(seconds / size)} ${unit}`;
  return `${Math.round(seconds)} s`;
}

function drawHistory(history) {
  const title = make("h3", {}, history.importance === null ? history.name : `${history.name} · weight ${number(history.importance, 2)}`);
  if (!history.events.length) return make("div", {}, title, make("p", { class: "quiet" }, "No earlier payments."));
  const width = Math.max(280, by("histories").clientWidth);
  const [height, right, floor] = [130, width - 25, 105];
  const oldest = Math.max(60, ...history.events.map((event) => event.age_seconds));
  const unit = Math.max(60, Math.min(...history.events.map((event) => event.age_seconds)));
  const place = (seconds) => right - (width - 65) * Math.log1p(seconds / unit) / Math.log1p(oldest / unit);
  const amounts = history.events.map((event) => Number(event.values[form.amount]) || 0);
  const highest = Math.log1p(Math.max(1, ...amounts));
  const picture = draw("svg", { class: "timeline", viewBox: `0 0 ${width} ${height}`, role: "img" },
    draw("title", {}, `${history.name}: ${history.events.length} earlier payments`),
    draw("line", { x1: 20, x2: right + 15, y1: floor, y2: floor }));
  let free = Infinity;
  for (const seconds of [60, 3600, DAY, 7 * DAY, 30 * DAY, 365 * DAY].filter((seconds) => seconds <= oldest)) {
    const x = place(seconds);
    if (free - x < 34 || right - x < 34) continue;
    free = x;
    picture.append(draw("line", { x1: x, x2: x, y1: floor, y2: floor + 5 }),
      draw("text", { x, y: floor + 18, "text-anchor": "middle" }, age(seconds)));
  }
  history.events.forEach((event, at) => {
    const x = place(event.age_seconds);
    const y = floor - 12 - 75 * Math.log1p(amounts[at]) / highest;
    const shape = event.attribution < 0 ? "against-fill" : "for-fill";
    const dot = draw("circle", { cx: x, cy: y, r: 3 + 9 * Math.sqrt(event.attention), "fill-opacity": 0.8,
      class: event.outcome === "fraud" ? `${shape} fraud` : shape });
    const values = Object.entries(event.values).map(([name, value]) => `${name}: ${value ?? "–"}`);
    const words = [event.id, `${age(event.age_seconds)} earlier`, `outcome: ${event.outcome}`, `adds ${number(event.attribution, 2)}`, ...values];
    dot.append(draw("title", {}, words.filter((word) => word !== null).join("\n")));
    picture.append(draw("line", { x1: x, x2: x, y1: floor, y2: y, class: "stem" }), dot);
  });
  picture.append(draw("circle", { cx: right, cy: floor, r: 5, class: "now" }),
    draw("text", { x: right, y: floor + 18, "text-anchor": "middle" }, "now"));
  return make("div", {}, title, picture);
}

function showAnswer(answer) {
  by("problem").hidden = true;
  by("empty").hidden = true;
  by("answer").hidden = false;
  drawGauge(answer);
  drawNumbers(answer);
  by("reasons-card").hidden = by("history-card").hidden = !answer.reasons;
  if (!answer.reasons) return;
  drawReasons(answer.reasons);
  by("histories").replaceChildren(...answer.explanation.histories.map(drawHistory));
}

async function score() {
  for (const input of document.querySelectorAll(".wrong")) input.classList.remove("wrong");
  const row = payment();
  try {
    return await ask("/v1/score?explain=true", row);
  } catch (problem) {
    if (problem.rule !== "no_reasons") throw problem;
    return ask("/v1/score", row);
  }
}

async function submit(event) {
  event.preventDefault();
  by("score").disabled = true;
  try {
    if (form === null) await start();
    if (form !== null) showAnswer(await score());
  } catch (problem) {
    showProblem(problem instanceof Error ? { title: "Not sent.", detail: problem.message } : problem);
  } finally {
    by("score").disabled = false;
    document.body.dataset.done = String(Number(document.body.dataset.done ?? 0) + 1);
  }
}

async function start() {
  try {
    form = await ask("/v1/form");
    by("problem").hidden = true;
    build();
  } catch (problem) {
    showProblem(problem instanceof Error ? { detail: problem.message } : problem);
  }
  document.body.dataset.ready = String(form !== null);
}

by("form").addEventListener("submit", submit);
by("another").addEventListener("click", () => {
  for (const input of by("fields").querySelectorAll("input")) {
    if (input.dataset.kind === "id") input.value = freshId();
    if (input.dataset.kind === "time") input.value = freshTime();
  }
});
start();
