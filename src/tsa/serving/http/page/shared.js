"use strict";
// What the pages share: elements, requests, and the drawings of reasons and histories. Text is only ever set as text.
const SVG = "http://www.w3.org/2000/svg";
const DAY = 86400;
const by = (id) => document.getElementById(id);

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

function number(value, digits = 4) { return value === null || value === undefined ? "–" : value.toFixed(digits); }

function drawReasons(target, reasons) {
  const most = Math.max(1e-9, ...reasons.map((reason) => Math.abs(reason.attribution)));
  target.replaceChildren(...reasons.map((reason) => {
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

function drawHistory(history, amount, widest) {
  const title = make("h3", {}, history.importance === null ? history.name : `${history.name} · weight ${number(history.importance, 2)}`);
  if (!history.events.length) return make("div", {}, title, make("p", { class: "quiet" }, "No earlier payments."));
  const width = Math.max(280, widest);
  const [height, right, floor] = [130, width - 25, 105];
  const oldest = Math.max(60, ...history.events.map((event) => event.age_seconds));
  const unit = Math.max(60, Math.min(...history.events.map((event) => event.age_seconds)));
  const place = (seconds) => right - (width - 65) * Math.log1p(seconds / unit) / Math.log1p(oldest / unit);
  const amounts = history.events.map((event) => Number(event.values[amount]) || 0);
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
