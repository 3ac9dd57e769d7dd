// Questions to the server, and what it says by itself.

const status = document.getElementById("connection");

export class Refused extends Error {}

export async function get(path, signal) {
  return answered(await asked(path, { signal }));
}

export async function post(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  return answered(await asked(path, { method: "POST", headers, body: JSON.stringify(body), signal }));
}

async function asked(path, options) {
  try {
    return await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name !== "AbortError") lost();
    throw error;
  }
}

async function answered(answer) {
  const text = await answer.text();
  if (answer.status === 401) {
    status.textContent = "The server was started anew: open the address that it printed";
    throw new Refused(text);
  }
  if (answer.ok) return JSON.parse(text);
  let reason = text;
  try {
    reason = JSON.parse(text).error;
  } catch {
    /* a plain text says it as well */
  }
  throw new Refused(reason || `the server answered ${answer.status}`);
}

function lost() {
  status.textContent = "No connection to the server; trying again";
}

export const address = (path, given = {}) => {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(given)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each !== "" && each !== null && each !== undefined && each !== false)
        query.append(name, each === true ? 1 : each);
    }
  }
  return query.size ? `${path}?${query}` : path;
};

export const runPath = (key, more = "") => `/api/runs/${encodeURIComponent(key)}${more}`;

/**
 * Listens as long as the page is visible; a browser has few connections for one server.
 * @param {object} given which Runs, see /api/live
 * @param {Record<string, (data: any) => void>} on by name of event
 * @returns {() => void} ends it
 */
export function listen(given, on) {
  let source = null;
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(address("/api/live", given));
    source.onopen = () => {
      status.textContent = "";
    };
    source.onerror = lost;
    for (const [name, action] of Object.entries(on)) {
      source.addEventListener(name, (event) => action(JSON.parse(event.data)));
    }
  };
  const close = () => {
    source?.close();
    source = null;
  };
  const turn = () => (document.hidden ? close() : open());
  document.addEventListener("visibilitychange", turn);
  open();
  return () => {
    document.removeEventListener("visibilitychange", turn);
    close();
  };
}
