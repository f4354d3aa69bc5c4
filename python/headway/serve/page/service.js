// Asking the service, and saying in words what went wrong. The token is kept for this tab alone.

const TOKEN = "headway-token";
const PATIENCE = 5000; // ms

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? "",
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

// What a person can be told. `needsToken`: another token may help.
export class Problem extends Error {
  constructor(message, needsToken = false) {
    super(message);
    this.needsToken = needsToken;
  }
}

async function ask(path, options = {}) {
  const given = token.get();
  const headers = { Accept: "application/json", ...options.headers };
  if (given) headers.Authorization = `Bearer ${given}`;
  let response, body;
  try {
    response = await fetch(path, {
      ...options, headers, cache: "no-store", credentials: "omit", redirect: "error",
      signal: AbortSignal.timeout(PATIENCE),
    });
    body = await response.text();
  } catch (error) {
    if (error.name === "TimeoutError") {
      throw new Problem(`The service has not answered for ${PATIENCE / 1000} seconds.`);
    }
    throw new Problem("The service does not answer. Has it been stopped?");
  }
  let data = null;
  try {
    data = body ? JSON.parse(body) : null;
  } catch { /* said below */ }
  if (response.ok && data !== null) return data;
  const said = data?.error?.message ?? data?.error ?? data?.detail;
  const why = typeof said === "string" ? ` It says: ${said}` : "";
  if (response.status === 401) {
    throw new Problem(given ? "The service does not accept this token." : "This service asks for a token.", true);
  }
  if (response.status === 403) throw new Problem(`This token may not do that.${why}`, true);
  if (response.status === 503) throw new Problem(`The service cannot reach its store.${why}`);
  if (response.ok) throw new Problem("The service answered something that is not JSON.");
  throw new Problem(`The service refused with status ${response.status}.${why}`);
}

export const keys = (search, sort, limit) => ask(`/v1/keys?${new URLSearchParams({ search, sort, limit })}`);

export const reset = (key) =>
  ask("/v1/reset", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ key: key.key, quota: key.quota, using: key.algorithm, tenant: key.tenant }),
  });
