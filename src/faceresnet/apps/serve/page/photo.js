// One photo: its card, the boxes over it, and what can be saved of it.

import { detect } from "./service.js";

export const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

/** Boxes over a picture, as elements placed in percent of it. */
export class Boxes {
  constructor(layer) {
    this.layer = layer;
    this.faces = [];
  }

  /** Show faces ({box, score}) of a picture of `width` × `height` px. */
  show(faces, width, height) {
    this.layer.style.aspectRatio = `${width} / ${height}`;
    this.faces = faces;
    this.elements = faces.map(({ box: [x1, y1, x2, y2], score }) => {
      const box = document.createElement("div");
      box.className = y1 < height * 0.04 ? "box at-top" : "box";
      box.style.left = `${(100 * x1) / width}%`;
      box.style.top = `${(100 * y1) / height}%`;
      box.style.width = `${(100 * (x2 - x1)) / width}%`;
      box.style.height = `${(100 * (y2 - y1)) / height}%`;
      const label = document.createElement("span");
      label.textContent = score.toFixed(2);
      box.append(label);
      return box;
    });
    this.layer.replaceChildren(...this.elements);
  }

  /** Hide faces below a score; returns how many are left. */
  filter(threshold) {
    let shown = 0;
    this.faces.forEach(({ score }, index) => {
      this.elements[index].hidden = score < threshold;
      shown += score >= threshold;
    });
    return shown;
  }
}

/** Keep a layer exactly over the picture below it, however the window changes. */
export function follow(layer, picture) {
  new ResizeObserver(() => {
    layer.style.width = `${picture.clientWidth}px`;
    layer.style.height = `${picture.clientHeight}px`;
  }).observe(picture);
}

/** Hand a file to the visitor. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export const saveJson = (value, name) => save(new Blob([JSON.stringify(value, null, 2) + "\n"], { type: "application/json" }), name);

export class Photo {
  /** A card for `file`; `changed` is called when its faces are there or it is removed. */
  constructor(file, changed) {
    this.file = file;
    this.changed = changed;
    this.found = null;
    this.threshold = 0;
    this.aborter = new AbortController();
    this.element = document.getElementById("photo").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.element.querySelector(selector);
    this.part("h3").textContent = file.name;
    this.part(".boxes").hidden = true;
    this.boxes = new Boxes(this.part(".boxes"));
    this.picture = this.part("img");
    this.picture.alt = `Photo ${file.name}`;
    this.picture.src = URL.createObjectURL(file);
    this.picture.addEventListener("error", () => this.#goBlank());
    follow(this.part(".boxes"), this.picture);
    this.element.classList.add("waiting");
    for (const [button, what] of [["save-json", "JSON of"], ["save-image", "Image with boxes of"], ["remove", "Remove"]]) {
      this.part(`.${button}`).setAttribute("aria-label", `${what} ${file.name}`);
    }
    this.part(".save-json").addEventListener("click", () => saveJson(this.result(), `${this.stem}.json`));
    this.part(".save-image").addEventListener("click", () => this.saveImage());
    this.part(".remove").addEventListener("click", () => this.remove());
  }

  get stem() {
    return this.file.name.replace(/\.[^.]*$/, "") || "photo";
  }

  /** Ask the service for the faces. */
  async look() {
    this.#say("Looking");
    try {
      const { image, milliseconds } = await detect(this.file, this.aborter.signal);
      this.found = image;
      this.boxes.show(image.faces, image.width, image.height);
      this.part(".boxes").hidden = false;
      if (this.blank) this.blank.style.aspectRatio = `${image.width} / ${image.height}`;
      this.part(".timing").textContent = `${image.width} × ${image.height} px · detector ${image.timing_ms.detect.toFixed(0)} ms · in all ${milliseconds.toFixed(0)} ms`;
      this.part(".save-json").disabled = this.part(".save-image").disabled = false;
      this.part("details").hidden = false;
      this.part("details").addEventListener("toggle", () => this.#fillTable());
    } catch (error) {
      if (error.name === "AbortError") return;
      this.fail(error.message);
    }
    this.element.classList.remove("waiting");
    this.changed();
  }

  /** Say why there are no faces. */
  fail(why) {
    this.element.classList.remove("waiting");
    this.element.classList.add("failed");
    this.#say(why.charAt(0).toUpperCase() + why.slice(1));
  }

  /** Show faces from a score on; returns how many those are. */
  filter(threshold) {
    this.threshold = threshold;
    if (!this.found) return 0;
    const shown = this.boxes.filter(threshold);
    this.#say(shown ? count(shown, "face") : "No face");
    this.#fillTable();
    return shown;
  }

  get faces() {
    return this.found.faces.filter(({ score }) => score >= this.threshold);
  }

  /** What the service said, with the faces that are shown. */
  result() {
    const { width, height } = this.found;
    return { image: this.file.name, width, height, threshold: this.threshold, faces: this.faces };
  }

  /** Save the photo with the boxes that are shown, in its full size. */
  saveImage() {
    const { width, height } = this.found;
    const canvas = Object.assign(document.createElement("canvas"), { width, height });
    const context = canvas.getContext("2d");
    if (!this.blank) context.drawImage(this.picture, 0, 0, width, height);
    const line = Math.max(1, Math.round(Math.max(width, height) / 320));
    const letters = 5 * line + 4;
    context.lineWidth = line;
    context.font = `600 ${letters}px sans-serif`;
    context.textBaseline = "bottom";
    for (const { box: [x1, y1, x2, y2], score } of this.faces) {
      context.strokeStyle = context.fillStyle = "#ff0000";
      context.strokeRect(x1, y1, x2 - x1, y2 - y1);
      if (x2 - x1 < 2 * letters) continue;
      const text = score.toFixed(2);
      const top = Math.max(letters, y1 - line / 2);
      context.fillRect(x1 - line / 2, top - letters, context.measureText(text).width + 2 * line, letters);
      context.fillStyle = "#ffffff";
      context.fillText(text, x1 + line / 2, top);
    }
    const jpeg = this.file.type === "image/jpeg";
    canvas.toBlob((blob) => save(blob, `${this.stem}-faces.${jpeg ? "jpg" : "png"}`), jpeg ? "image/jpeg" : "image/png", 0.92);
  }

  remove() {
    this.removed = true;
    this.aborter.abort();
    URL.revokeObjectURL(this.picture.src);
    this.element.remove();
    this.changed();
  }

  #say(text) {
    this.part(".found").textContent = text;
  }

  /** A kind of photo that the browser cannot show, but the service may read. */
  #goBlank() {
    if (this.removed || this.blank) return;
    this.blank = document.createElement("div");
    this.blank.className = "blank";
    this.picture.replaceWith(this.blank);
    if (this.found) this.blank.style.aspectRatio = `${this.found.width} / ${this.found.height}`;
    follow(this.part(".boxes"), this.blank);
  }

  #fillTable() {
    if (!this.part("details").open) return;
    const rows = this.faces.map(({ box, score }) => {
      const row = document.createElement("tr");
      for (const text of [score.toFixed(3), ...box.map((x) => x.toFixed(1))]) row.insertCell().textContent = text;
      return row;
    });
    this.part("tbody").replaceChildren(...rows);
  }
}
