"use strict";
// One colour per class, as `emotiw predict --annotate` has them (Okabe and Ito 2008).
const COLOURS = ["#d55e00", "#009e73", "#cc79a7", "#f0e442", "#56b4e9", "#e69f00", "#c8c8c8", "#0072b2"];
const CROWD = 12; // faces above which boxes have their numbers alone
const CAMERA_SIDE = 640; // pixels of the longer side of what is sent of the camera
const AT_ONCE = 2; // photos on their way
const $ = (id) => document.getElementById(id);

function make(name, where, text, kind) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = shown(text);
  if (kind) made.className = kind;
  if (where) where.append(made);
  return made;
}

// What turns the direction of writing or cannot be seen in a file's name is written out.
function shown(text) {
  return String(text).replace(/[\p{Cc}\p{Cs}\p{Co}\p{Zl}\p{Zp}\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]/gu,
    (letter) => "\\u" + letter.codePointAt(0).toString(16).padStart(4, "0"));
}

const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const percent = (share) => Math.round(100 * share) + " %";

// The answer for one picture; waits where the queue is full, and says so.
async function read(picture, name, say) {
  for (;;) {
    const body = new FormData();
    body.append("files", picture, name);
    let answer;
    try {
      answer = await fetch("/predict", { method: "POST", body });
    } catch {
      const there = await picture.arrayBuffer().catch(() => null);
      throw new Error(there ? "the program does not answer; is it still running?"
        : "a folder, whose photos can be chosen, or a file that is not there any more");
    }
    if (answer.status === 503 && answer.headers.has("Retry-After")) {
      say("The queue is full; waiting ...");
      await pause(Number(answer.headers.get("Retry-After")) || 1);
      continue;
    }
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error);
    return told;
  }
}

function colour(labels, label) {
  return COLOURS[labels.indexOf(label) % COLOURS.length];
}

// Boxes over a picture of this width and height, as shares of it.
function drawBoxes(stage, told, width, height, mirrored) {
  stage.querySelectorAll(".box").forEach((box) => box.remove());
  const faces = told.rows.filter((row) => row.box);
  for (const row of faces) {
    const [x, y, wide, tall] = row.box;
    const left = mirrored ? width - x - wide : x;
    const box = make("div", stage, undefined, "box");
    box.classList.toggle("low", y < 0.08 * height);
    box.classList.toggle("right", left + wide / 2 > width / 2);
    box.style.setProperty("--colour", colour(told.labels, row.label));
    for (const [side, value] of [["left", left / width], ["top", y / height], ["width", wide / width], ["height", tall / height]])
      box.style[side] = 100 * value + "%";
    const number = faces.length > 1 ? row.face + 1 + " " : "";
    make("span", box, faces.length > CROWD ? number : number + row.label + " " + percent(row.probabilities[row.label]));
  }
}

// A bar for each class of each face.
function drawBars(place, told) {
  place.replaceChildren();
  const faces = told.rows.filter((row) => row.box);
  for (const row of faces) {
    const face = make("section", place, undefined, "face");
    const head = make("h3", face);
    make("i", head).style.setProperty("--colour", colour(told.labels, row.label));
    head.append(shown((faces.length > 1 ? row.face + 1 + ": " : "") + row.label + " " + percent(row.probabilities[row.label])));
    for (const label of told.labels) {
      const bar = make("div", face, undefined, "bar");
      make("b", bar, label);
      const filled = make("i", make("u", bar));
      filled.style.width = 100 * row.probabilities[label] + "%";
      filled.style.setProperty("--colour", colour(told.labels, label));
      make("em", bar, percent(row.probabilities[label]));
    }
    if (row.doubt) make("p", face, "Doubtful: " + row.doubt, "quiet");
  }
}

// Whether the browser can show the picture: HEIC, for example, it often cannot.
async function picture(place, file) {
  const image = new Image();
  const stage = make("div", place, undefined, "picture");
  image.alt = shown(file.name);
  image.src = URL.createObjectURL(file);
  stage.append(image);
  try {
    await image.decode();
    return [stage, image];
  } catch {
    stage.remove();
    URL.revokeObjectURL(image.src);
    return [null, null];
  }
}

async function readPhoto(file, article) {
  const name = file.name || "pasted picture";
  const told = make("p", article, "Reading ...", "quiet");
  const [stage, image] = await picture(article, file);
  try {
    const answer = await read(file, name, (text) => (told.textContent = text));
    const faces = answer.rows.filter((row) => row.box);
    const error = answer.rows[0].error;
    told.textContent = shown(error || (faces.length === 1 ? "1 face" : faces.length + " faces"));
    told.className = error && error !== "no face found" ? "error" : "quiet";
    for (const { note } of answer.notes) make("p", article, note, "quiet");
    if (stage) drawBoxes(stage, answer, image.naturalWidth, image.naturalHeight, false);
    else if (faces.length) make("p", article, "This browser cannot show the picture itself.", "quiet");
    drawBars(make("div", article, undefined, "faces"), answer);
    $("said").textContent = shown(name + ": " + told.textContent);
  } catch (error) {
    told.textContent = shown(error.message);
    told.className = "error";
  }
}

const waiting = [];
let working = 0;

function readPhotos(files) {
  const articles = files.map((file) => {
    const article = make("article");
    make("h2", article, file.name || "pasted picture");
    waiting.push([file, article]);
    return article;
  });
  $("photos").prepend(...articles);
  while (working < AT_ONCE && waiting.length) work();
}

async function work() {
  working += 1;
  while (waiting.length) {
    await readPhoto(...waiting.shift());
  }
  working -= 1;
}

let film = null;

function sayCamera(text) {
  $("said").textContent = shown(text);
}

async function startCamera() {
  if (film) return;
  $("start").disabled = true;
  try {
    film = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" }, audio: false });
  } catch (error) {
    sayCamera("The camera cannot be used: " + error.message);
    $("start").disabled = false;
    return;
  }
  $("camera").hidden = false;
  $("video").srcObject = film;
  sayCamera("");
  try {
    await $("video").play();
    await follow(film);
  } catch (error) {
    sayCamera(error.message);
  }
  stopCamera();
}

// One frame after the other: the next is sent when the last has been answered.
async function follow(stream) {
  const video = $("video");
  const canvas = document.createElement("canvas");
  let last = performance.now();
  while (film === stream && stream.active) {
    const scale = Math.min(1, CAMERA_SIDE / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = Math.round(scale * video.videoWidth);
    canvas.height = Math.round(scale * video.videoHeight);
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    const frame = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.9));
    const answer = await read(frame, "camera", (text) => ($("rate").textContent = text));
    if (film !== stream) return;
    drawBoxes($("stage"), answer, canvas.width, canvas.height, true);
    drawBars($("seen"), answer);
    if (answer.rows[0].error) make("p", $("seen"), answer.rows[0].error, "quiet");
    const now = performance.now();
    $("rate").textContent = (1000 / (now - last)).toFixed(1) + " answers a second";
    last = now;
    if (document.hidden) await new Promise((done) => document.addEventListener("visibilitychange", done, { once: true }));
    await new Promise(requestAnimationFrame);
  }
}

function stopCamera() {
  if (film) film.getTracks().forEach((track) => track.stop());
  film = null;
  $("video").srcObject = null;
  $("stage").querySelectorAll(".box").forEach((box) => box.remove());
  $("camera").hidden = true;
  $("start").disabled = false;
}

async function describe() {
  try {
    const facts = await (await fetch("/healthz")).json();
    $("about").textContent = shown("Read by " + facts.model + " on " + facts.engine + ", version " + facts.version + ".");
  } catch {
    $("about").textContent = "The program does not answer; is it still running?";
  }
}

$("files").addEventListener("change", () => {
  readPhotos([...$("files").files]);
  $("files").value = "";
});
$("start").addEventListener("click", startCamera);
$("stop").addEventListener("click", stopCamera);
for (const name of ["dragenter", "dragover"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  if (event.dataTransfer.files.length) readPhotos([...event.dataTransfer.files]);
  else sayCamera("That was no file. Drop photos from a folder.");
});
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) readPhotos(files);
  else sayCamera("There is no picture to paste.");
});
if (["localhost", "127.0.0.1", "[::1]"].includes(location.hostname))
  $("where").textContent = "which runs on this machine: nothing leaves it";
if (!navigator.mediaDevices) {
  $("start").disabled = true;
  $("start").title = "Browsers give the camera to pages of this machine and of https alone.";
  make("p", $("drop"), $("start").title, "quiet");
}
describe();
