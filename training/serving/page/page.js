"use strict";

const LARGEST_SIDE_PX = 1024;
const NUM_PARTS_TOLD = 3;
const byId = (id) => document.getElementById(id);
let picture = null;
let bitmap = null;
let asked = 0;

async function send(path, fields) {
  const form = new FormData();
  form.append("image", picture);
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  const token = byId("token").value.trim();
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { method: "POST", body: form, headers });
  const found = await response.json();
  if (!response.ok) {
    if (response.status === 401) {
      byId("token-row").hidden = false;
      byId("token").focus();
    }
    throw new Error(found.error.message);
  }
  return found;
}

async function tellModel() {
  const response = await fetch("/readyz");
  const state = await response.json();
  const model = state.model;
  byId("model").textContent = model ? `${model.name}, version ${model.version}` : "The model is not loaded yet.";
}

async function choose(file) {
  if (!file) return;
  picture = file;
  asked++; // what is asked of the picture before is not shown under this one
  say("", "");
  byId("answers").replaceChildren();
  clearParts();
  const shown = await createImageBitmap(file).catch(() => null);
  if (picture !== file) return;
  bitmap = shown;
  byId("shown").hidden = bitmap === null;
  if (bitmap) draw(null);
  await ask("");
}

async function ask(question) {
  if (!picture) {
    say("No picture yet.", "Choose a picture first.");
    byId("file").focus();
    return;
  }
  const number = ++asked;
  say("Asking …", "");
  byId("submit").disabled = true;
  try {
    const said = question
      ? (await send("/v1/ask", { questions: question })).answers[0].answer
      : (await send("/v1/caption", {})).caption;
    if (number !== asked) return;
    addAnswer(question, said);
    say(`${question || "Caption"}: ${said}`, "");
    byId("submit").disabled = false;
    const carried = await send("/v1/explain", question ? { question } : {});
    if (number === asked) showParts(carried);
  } catch (error) {
    if (number === asked) say("", error.message);
  } finally {
    if (number === asked) byId("submit").disabled = false;
  }
}

function addAnswer(question, said) {
  const item = document.createElement("li");
  for (const [kind, text] of [["asked", question || "Caption"], ["said", said]]) {
    const line = document.createElement("div");
    line.className = kind;
    line.textContent = text;
    item.append(line);
  }
  byId("answers").prepend(item);
}

function say(status, problem) {
  byId("status").textContent = status;
  byId("problem").textContent = problem;
}

function clearParts() {
  byId("parts").replaceChildren();
  byId("parts-title").hidden = true;
}

function showParts({ answer, falls }) {
  clearParts();
  byId("parts-title").hidden = false;
  const cells = falls.flatMap((row, y) => row.map((fall, x) => ({ fall, x, y })));
  cells.sort((one, other) => other.fall - one.fall);
  for (const { fall, x, y } of cells.slice(0, NUM_PARTS_TOLD)) {
    const item = document.createElement("li");
    item.textContent = `Row ${y + 1}, column ${x + 1} of ${falls.length}: the answer is ` +
      `${Math.exp(fall).toPrecision(2)} times as likely with it as without it`;
    byId("parts").append(item);
  }
  draw(falls);
  byId("legend").textContent = `Dark parts matter little for “${answer}”; bright ones carried it.`;
}

function draw(falls) {
  if (!bitmap) return;
  const canvas = byId("canvas");
  const scale = Math.min(1, LARGEST_SIDE_PX / Math.max(bitmap.width, bitmap.height));
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  byId("legend").textContent = "The chosen picture.";
  if (!falls) return;
  const most = Math.max(...falls.flat(), 1e-6);
  const [width, height] = [canvas.width / falls[0].length, canvas.height / falls.length];
  falls.forEach((row, y) => row.forEach((fall, x) => {
    context.fillStyle = `rgb(0 0 0 / ${0.75 * (1 - Math.max(0, fall) / most)})`;
    context.fillRect(x * width, y * height, width, height);
  }));
}

byId("file").addEventListener("change", (event) => choose(event.target.files[0]));
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(byId("question").value.trim());
});
const drop = byId("drop");
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  choose(event.dataTransfer.files[0]);
});
tellModel();
