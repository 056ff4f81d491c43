"use strict";
// The page at /: asks the server what a payment is made of, sends one, and draws what comes back.
let form = null;

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

function showAnswer(answer) {
  by("problem").hidden = true;
  by("empty").hidden = true;
  by("answer").hidden = false;
  drawGauge(answer);
  drawNumbers(answer);
  by("reasons-card").hidden = by("history-card").hidden = !answer.reasons;
  if (!answer.reasons) return;
  drawReasons(by("reasons"), answer.reasons);
  const width = by("histories").clientWidth;
  by("histories").replaceChildren(...answer.explanation.histories.map((one) => drawHistory(one, form.amount, width)));
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
