// The page: photos come in by drop, paste, file dialogue or webcam; the slider filters them all.

import { count, Photo, saveJson } from "./photo.js";
import { describe, FLOOR } from "./service.js";
import { Webcam } from "./webcam.js";

/** Photos that are sent at the same time. */
const AT_ONCE = 3;

const part = (id) => document.getElementById(id);
let photos = [];
const waiting = [];
let looking = 0;
let limits = null;
let model = "";

const threshold = () => Number(part("threshold").value);

/** Bring everything on the page in line with the photos and the slider. */
function refresh() {
  photos = photos.filter((photo) => !photo.removed);
  const least = threshold();
  part("threshold-value").textContent = least.toFixed(2);
  const faces = photos.reduce((sum, photo) => sum + photo.filter(least), 0);
  const done = photos.filter((photo) => photo.found).length;
  part("total").textContent = photos.length ? `${count(faces, "face")} in ${count(done, "photo")}` : "No photo yet";
  part("all-json").disabled = !done;
  part("clear").disabled = !photos.length;
  document.body.classList.toggle("busy", photos.length > 0);
  webcam.filter(least);
}

function say(text) {
  part("notice").textContent = text;
  part("notice").hidden = !text;
}

/** Take files in, newest first on the page, and look at them in their order. */
function add(files) {
  say("");
  for (const file of files) {
    const photo = new Photo(file, refresh);
    photos.unshift(photo);
    part("photos").prepend(photo.element);
    waiting.push(photo);
  }
  refresh();
  next();
}

async function next() {
  if (looking >= AT_ONCE || !waiting.length) return;
  const photo = waiting.shift();
  looking++;
  next();
  if (!photo.removed) {
    if (limits && photo.file.size > limits.max_bytes) photo.fail(`Larger than ${megabytes(limits.max_bytes)}`);
    else await photo.look();
  }
  looking--;
  next();
}

const megabytes = (bytes) => `${+(bytes / 1e6).toFixed(1)} MB`;

const webcam = new Webcam((file) => add([file]), threshold, say);

function listen() {
  part("files").addEventListener("change", (event) => {
    add(event.target.files);
    event.target.value = ""; // so that the same photo can be chosen again
  });
  part("threshold").addEventListener("input", refresh);
  part("webcam").addEventListener("click", () => webcam.start());
  part("clear").addEventListener("click", () => {
    for (const photo of [...photos]) photo.remove();
    part("files").focus();
  });
  part("all-json").addEventListener("click", () => {
    const images = photos.filter((photo) => photo.found).map((photo) => photo.result());
    saveJson({ model, threshold: threshold(), images }, "faces.json");
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) add(files);
    else if (!event.target.closest?.("input")) say("There is no photo in the clipboard");
  });
  listenToDrops();
}

/** The whole window takes photos, so that a drop beside the frame does not leave the page. */
function listenToDrops() {
  let depth = 0;
  const over = (change) => {
    depth = Math.max(0, depth + change);
    part("drop").classList.toggle("over", depth > 0);
  };
  addEventListener("dragenter", () => over(1));
  addEventListener("dragleave", () => over(-1));
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    over(-depth);
    if (event.dataTransfer.files.length) add([...event.dataTransfer.files]);
    else say("That was no photo: drop files");
  });
}

async function start() {
  listen();
  refresh();
  try {
    const service = await describe();
    limits = service.limits;
    model = service.models[0].name;
    part("model").textContent = model;
    part("threshold").min = FLOOR;
    part("threshold").value = service.models[0].threshold;
    part("limits").textContent += ` · up to ${megabytes(limits.max_bytes)} and ${+(limits.max_pixels / 1e6).toFixed(1)} megapixels`;
    refresh();
  } catch (error) {
    say(error.message);
  }
}

start();
