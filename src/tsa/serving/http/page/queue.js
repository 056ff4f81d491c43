"use strict";
// The page at /queue: lists payments by expected loss, opens one, and sends what the analyst says of it.
const REFRESH_MS = 20000;
let listed = { cases: [], total: 0, counts: {} };
let opened = null;
let last = null;
let isBusy = false;

function filters() {
  const fields = {};
  for (const name of ["state", "text", "decision", "min_loss"]) if (by(name).value.trim()) fields[name] = by(name).value.trim();
  return fields;
}

function when(seconds) { return new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 19); }

function money(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 2 });
}

function showProblem(problem) {
  const isProblem = !(problem instanceof Error);
  const title = isProblem ? problem.title : "The server could not be reached";
  by("problem").replaceChildren(make("strong", {}, title), ` ${isProblem ? problem.detail : problem.message}`);
  by("problem").hidden = false;
  if (isProblem && ["token", "role", "no_analyst", "no_queue"].includes(problem.rule)) {
    by("sign-in").hidden = false;
    by("filters").hidden = by("work").hidden = true;
  }
}

function say(text, button) { by("status").replaceChildren(text, ...(button ? [button] : [])); }

// One thing at a time: a second key press while a request is under way is ignored.
async function alone(work) {
  if (isBusy) return;
  isBusy = true;
  document.body.dataset.busy = "true";
  try {
    by("problem").hidden = true;
    await work();
  } catch (problem) {
    showProblem(problem);
  } finally {
    isBusy = false;
    document.body.dataset.busy = "false";
    document.body.dataset.done = String(Number(document.body.dataset.done ?? 0) + 1);
  }
}

async function refresh() {
  listed = await ask(`/v1/queue?${new URLSearchParams(filters())}`);
  by("sign-in").hidden = true;
  by("filters").hidden = by("work").hidden = false;
  const counts = listed.counts;
  by("summary").textContent = `${counts.open} to review, ${counts.later} put off, ${counts.done} done, ${counts["handed on"]} handed on · you are ${listed.who}`;
  by("hand-on").hidden = !listed.webhook;
  drawCases();
}

function drawCases() {
  by("cases").replaceChildren(...listed.cases.map((one) => {
    const isTaken = one.held_by !== null && !one.is_mine;
    const state = isTaken ? `open at ${one.held_by}` : one.state === "open" ? one.decision ?? "" : `${one.state} · ${one.changed_by ?? ""}`;
    const button = make("button", { type: "button", "data-id": one.id },
      make("strong", {}, one.id), make("span", { class: "end" }, money(one.expected_loss)),
      make("span", { class: "quiet" }, when(one.time)), make("span", { class: "quiet" }, state));
    if (opened !== null && opened.id === one.id) button.setAttribute("aria-current", "true");
    button.disabled = isTaken;
    button.addEventListener("click", () => alone(() => open({ id: one.id })));
    return make("li", {}, button);
  }));
  if (listed.total > listed.cases.length) {
    by("cases").append(make("li", { class: "quiet" }, `and ${listed.total - listed.cases.length} more`));
  }
}

function pairs(rows) { return rows.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]); }

function showCase() {
  by("nothing").hidden = opened !== null;
  by("opened").hidden = opened === null;
  if (opened === null) return;
  const one = opened;
  by("case-title").textContent = `Payment ${one.id}`;
  by("lease").textContent = `Yours until ${when(one.lease_until)} UTC`;
  const rows = [
    ["Expected loss", money(one.expected_loss)], ["Amount", money(one.amount)], ["Probability", number(one.probability, 6)],
    ["Raw score", number(one.raw_score, 6)], ["Percentile", number(one.percentile)], ["Decision", one.decision ?? "–"],
    ["Time", `${when(one.time)} UTC`], ["Model", one.version], ...one.keys.map(([history, key]) => [history, key]),
  ];
  if (one.state !== "open") rows.push(["Answer", `${one.state}, by ${one.changed_by ?? "–"}`]);
  if (one.degraded) rows.push(["Degraded", "scored without its histories"]);
  by("numbers").replaceChildren(...pairs(rows));
  by("values").replaceChildren(...pairs(Object.entries(one.values).map(([name, value]) => [name, value === null ? "–" : String(value)])));
  const why = one.unavailable ? "Histories cannot be read at the moment." : "This server has no reasons for it.";
  by("no-reasons").textContent = why;
  by("no-reasons").hidden = one.reasons !== null;
  drawReasons(by("reasons"), one.reasons ?? []);
  const width = by("histories").clientWidth;
  by("histories").replaceChildren(...one.histories.map((history) => drawHistory(history, listed.amount, width)));
  by("similar").replaceChildren(...one.similar.map((other) => make("tr", {},
    make("th", { scope: "row" }, other.id), make("td", {}, when(other.time)), make("td", { class: "end" }, money(other.amount)),
    make("td", {}, other.outcome), make("td", {}, other.decision ?? "–"), make("td", {}, other.shares.join(", ")),
    make("td", {}, other.same.join(", ")))));
}

async function open(wanted, moveFocus = true) {
  try {
    opened = (await ask("/v1/queue/claim", { ...filters(), ...wanted })).case;
  } catch (problem) {
    opened = null;
    showCase();
    await refresh();
    throw problem;
  }
  showCase();
  await refresh();
  if (opened !== null && moveFocus) by("case-title").focus();
}

function step(direction) {
  const free = listed.cases.filter((one) => one.held_by === null || one.is_mine);
  if (!free.length) return open({});
  const at = opened === null ? -1 : free.findIndex((one) => one.id === opened.id);
  const next = at < 0 ? 0 : Math.min(free.length - 1, Math.max(0, at + direction));
  return open({ id: free[next].id });
}

function sayAnswer(id, answer) {
  const again = make("button", { type: "button", class: "second", id: "reopen" }, "Reopen");
  again.addEventListener("click", () => alone(reopen));
  last = id;
  say(`${id}: ${answer}.`, again);
}

async function decide(answer) {
  if (opened === null) return;
  const id = opened.id;
  const result = await ask("/v1/queue/decide", { id, answer });
  sayAnswer(id, result.stored === false ? `${answer}, only in the log of decisions` : answer);
  await open({});
}

async function handOn() {
  if (opened === null || by("hand-on").hidden) return;
  const id = opened.id;
  await ask("/v1/queue/hand-on", { id });
  sayAnswer(id, "handed on");
  await open({});
}

async function reopen() { if (last !== null) await open({ id: last }); }

async function download() {
  const headers = { authorization: `Bearer ${by("token").value.trim()}` };
  const answer = await fetch(`/v1/queue/cases.csv?${new URLSearchParams(filters())}`, { headers });
  if (!answer.ok) throw await answer.json();
  const link = make("a", { href: URL.createObjectURL(await answer.blob()), download: "cases.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
}

const KEYS = {
  j: () => step(1), k: () => step(-1), f: () => decide("fraud"), g: () => decide("genuine"), l: () => decide("later"),
  h: handOn, u: reopen,
};

document.addEventListener("keydown", (event) => {
  const isTyping = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName) && event.target.type !== "checkbox";
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || event.repeat || !by("use-keys").checked) return;
  if (by("work").hidden) return;
  if (event.key === "/") {
    event.preventDefault();
    by("text").focus();
  } else if (Object.hasOwn(KEYS, event.key)) {
    event.preventDefault();
    alone(KEYS[event.key]);
  }
});
by("sign-in").addEventListener("submit", (event) => { event.preventDefault(); alone(async () => { await refresh(); await open({}, false); }); });
by("filters").addEventListener("submit", (event) => { event.preventDefault(); alone(() => open({}, false)); });
by("state").addEventListener("change", () => alone(() => open({}, false)));
by("csv").addEventListener("click", () => alone(download));
for (const answer of ["fraud", "genuine", "later"]) by(answer).addEventListener("click", () => alone(() => decide(answer)));
by("hand-on").addEventListener("click", () => alone(handOn));
setInterval(() => { if (!by("work").hidden && !document.hidden) alone(refresh); }, REFRESH_MS);
document.body.dataset.ready = "true";
