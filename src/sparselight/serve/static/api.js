// Requests to this server. An answer that is no success becomes a `Refused` with what was asked, why not, and what to do instead.
import { h } from "./dom.js";

export class Refused extends Error {
  constructor(status, { asked, why, instead }) {
    super(why);
    Object.assign(this, { status, asked, why, instead });
  }
}

export async function get(path, query = {}, signal = undefined) {
  const pairs = Object.entries(query).flatMap(([name, value]) => (Array.isArray(value) ? value : [value]).map((one) => [name, one]));
  const words = new URLSearchParams(pairs.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)).toString();
  return answer(await request(`${path}${words ? `?${words}` : ""}`, { signal }));
}

export async function post(path, body, signal = undefined) {
  return answer(await request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal }));
}

async function request(path, options) {
  try {
    return await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { asked: `read ${path.split("?")[0]}`, why: "the server does not answer", instead: "see whether `sparselight serve` still runs" });
  }
}

async function answer(response) {
  if (response.ok) {
    return response.json().catch((error) => {
      if (isStale(error)) throw error;
      throw new Refused(0, { asked: "read this page's data", why: "the answer of the server broke off", instead: "load the page again" });
    });
  }
  let said = {};
  try { said = await response.json(); } catch { /* not JSON: said by the status alone */ }
  if (Array.isArray(said.detail)) said = { why: said.detail.map((one) => `${(one.loc ?? []).slice(1).join(".")}: ${one.msg}`).join("; ") };
  const detail = said.error ?? said;
  throw new Refused(response.status, {
    asked: detail.asked ?? "this page's data", why: detail.why ?? (typeof said.detail === "string" ? said.detail : `the server answered ${response.status}`),
    instead: detail.instead ?? "change what you asked for",
  });
}

/** The refusal as people read it. */
export function problem(error) {
  if (!(error instanceof Refused)) throw error;
  return h("div", { class: "problem", role: "alert" }, h("p", {}, h("b", {}, `Could not ${error.asked}: `), error.why, "."), h("p", {}, `Instead: ${error.instead}.`));
}

/** Whether an error is only a request that a newer one replaced. */
export const isStale = (error) => error?.name === "AbortError";
