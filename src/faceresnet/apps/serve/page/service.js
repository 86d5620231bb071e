// Talks to the service this page came from. Addresses are relative, so a proxy may put the page
// below any path.

/** Everything from this score on is asked for; the slider hides what is below its own. */
export const FLOOR = 0.05;

const TRIES = 30;
let key = sessionStorage.getItem("key") ?? "";

/** A request that was turned down, in words for people. */
export class Refused extends Error {}

/** Ask the visitor for the API key; resolves when there is one. */
let asking = null;
function askForKey() {
  const dialog = document.getElementById("key-dialog");
  asking ??= new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      key = document.getElementById("key").value.trim();
      sessionStorage.setItem("key", key);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Fetch JSON; waits while the service is full or loading, and asks for the key if it must. */
async function ask(path, options = {}) {
  for (let attempt = 0; attempt < TRIES; attempt++) {
    const used = key;
    let response;
    try {
      response = await fetch(path, { ...options, headers: { ...options.headers, ...(key && { "X-API-Key": key }) } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("The service cannot be reached");
    }
    if (response.status === 401) {
      if (used === key) await askForKey(); // else another request has asked meanwhile
      continue;
    }
    if (response.status === 503) {
      await pause(Number(response.headers.get("Retry-After") ?? 1));
      continue;
    }
    const answer = await response.json().catch(() => null);
    if (response.ok && answer) return answer;
    throw new Refused(answer?.error?.message ?? `The service answers ${response.status}`);
  }
  throw new Refused("The service is busy: try again later");
}

/** The model and the limits of the service. */
export const describe = () => ask("v1/models");

/** Faces of one photo, a Blob: {image, milliseconds}; throws Refused. */
export async function detect(photo, signal) {
  const type = photo.type.startsWith("image/") ? photo.type : "application/octet-stream";
  const start = performance.now();
  const answer = await ask(`v1/detect?threshold=${FLOOR}`, { method: "POST", body: photo, signal, headers: { "Content-Type": type } });
  return { image: answer.images[0], milliseconds: performance.now() - start };
}
