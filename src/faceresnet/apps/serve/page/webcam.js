// The webcam, live: the next frame is sent when the last one is answered, so it never lags.

import { Boxes, count, follow } from "./photo.js";
import { detect } from "./service.js";

/** Longer side of the frames that are sent, px. */
const FRAME_SIDE = 640;

export class Webcam {
  /** `photograph` is called with a photo taken, `threshold` gives the least score. */
  constructor(photograph, threshold, failed) {
    this.panel = document.getElementById("camera");
    this.video = document.getElementById("video");
    this.found = document.getElementById("camera-found");
    this.boxes = new Boxes(document.getElementById("camera-boxes"));
    this.threshold = threshold;
    this.failed = failed;
    this.taken = 0;
    follow(this.boxes.layer, this.video);
    document.getElementById("stop").addEventListener("click", () => this.stop());
    document.getElementById("snap").addEventListener("click", async () => {
      if (!this.video.videoWidth) return;
      const frame = await this.#frame(Infinity);
      photograph(new File([frame], `webcam-${++this.taken}.jpg`, { type: "image/jpeg" }));
    });
  }

  async start() {
    if (this.stream) return;
    if (!navigator.mediaDevices) {
      this.failed("Browsers give the webcam only to pages from this computer or over https");
      return;
    }
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    } catch (error) {
      this.failed(error.name === "NotAllowedError" ? "The webcam was not allowed" : "There is no webcam to use");
      return;
    }
    this.panel.hidden = false;
    this.video.srcObject = this.stream;
    await this.video.play();
    document.getElementById("stop").focus();
    await this.#run(this.stream);
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.stream = null;
    this.video.srcObject = null;
    this.boxes.show([], 1, 1);
    this.panel.hidden = true;
    document.getElementById("webcam").focus();
  }

  /** Hide boxes below a score. */
  filter(threshold) {
    return this.boxes.filter(threshold);
  }

  async #run(stream) {
    let rate = 0;
    while (this.stream === stream) {
      const start = performance.now();
      try {
        const { image } = await detect(await this.#frame(FRAME_SIDE));
        if (this.stream !== stream) return;
        this.boxes.show(image.faces, image.width, image.height);
        const shown = this.boxes.filter(this.threshold());
        const now = 1000 / (performance.now() - start);
        rate = rate ? 0.9 * rate + 0.1 * now : now;
        this.found.textContent = `${shown ? count(shown, "face") : "No face"} · ${rate.toFixed(0)} frames/s · detector ${image.timing_ms.detect.toFixed(0)} ms`;
      } catch (error) {
        if (this.stream !== stream) return;
        this.stop();
        this.failed(error.message);
      }
    }
  }

  /** The current picture as a JPEG whose longer side is at most `side` px. */
  #frame(side) {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, side / Math.max(width, height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    canvas.getContext("2d").drawImage(this.video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  }
}
