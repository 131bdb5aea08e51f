// Signs people in through the calls of the API, and takes them to a connection's provider. What comes back is written as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const tell = (text) => { byId("message").textContent = text; };

async function call(method, path, body) {
  const options = { method, headers: {}, credentials: "same-origin", redirect: "error" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path.startsWith("/") ? path : "/api/v1/" + path, options);
  const text = await answer.text();
  let value = null;
  try { value = text ? JSON.parse(text) : null; } catch { value = null; }
  if (!answer.ok) {
    const mistakes = value && value.errors ? value.errors.map((each) => each.detail) : [];
    const wait = answer.headers.get("Retry-After");
    const detail = mistakes.length ? mistakes.join("; ") : (value && value.detail) || "This did not work.";
    const error = new Error(wait ? detail + " (" + wait + " s)" : detail);
    error.status = answer.status;
    throw error;
  }
  return value;
}

// The fields that were filled in.
function filled(form, names) {
  const body = {};
  for (const name of names) {
    const value = form.elements[name].value;
    if (value !== "") body[name] = value;
  }
  return body;
}

function onSubmit(form, act) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    tell("");
    const button = form.querySelector("button[type=submit]");
    button.disabled = true;
    try { await act(); } catch (error) { tell(error.message); }
    button.disabled = false;
  });
}

async function toProvider(path, body) {
  tell("");
  try {
    const begun = await call("POST", path, body);
    if (begun.authorize_url.startsWith("https://")) window.location.assign(begun.authorize_url);
  } catch (error) { tell(error.message); }
}

async function signInPage() {
  const form = byId("sign-in");
  const named = new URLSearchParams(window.location.search).get("organization");
  if (named) form.elements.organization.value = named;
  const ways = await call("GET", "sign-in");
  byId("oidc").hidden = !ways.oidc;
  try {
    const me = await call("GET", "me");
    byId("who").textContent = me.user ? me.user.email : me.id;
    byId("account").hidden = false;
  } catch (error) {
    if (error.status !== 401) throw error;
    form.hidden = false;
  }
  onSubmit(form, async () => {
    await call("POST", "sign-in", filled(form, ["organization", "email", "password"]));
    window.location.assign("/");
  });
  byId("oidc").addEventListener("click", () => toProvider("sign-in/oidc", filled(form, ["organization"])));
  byId("sign-out").addEventListener("click", async () => {
    try {
      await call("POST", "sign-out", {});
      window.location.assign("/sign-in");
    } catch (error) { tell(error.message); }
  });
}

async function invitePage() {
  const token = window.location.hash.slice(1);
  // The link is used once; it does not stay in the history.
  window.history.replaceState(null, "", window.location.pathname);
  if (!token) return tell("This link is not complete. Open it as you got it.");
  const link = await call("POST", "invite", { token });
  if (link.method === "oidc") {
    byId("who").textContent = link.email;
    byId("provider").hidden = false;
    byId("oidc").addEventListener("click", () => toProvider("sign-in/oidc", { token }));
    return;
  }
  const form = byId("accept");
  const email = form.elements.email;
  if (link.email) {
    email.value = link.email;
    email.readOnly = true;
  }
  for (const name of ["first_name", "last_name"]) form.elements[name].value = link[name] || "";
  form.hidden = false;
  onSubmit(form, async () => {
    const body = filled(form, ["email", "first_name", "last_name", "password"]);
    await call("POST", "invite/accept", { token, ...body });
    window.location.assign("/");
  });
}

async function startPage() {
  const button = byId("go");
  button.addEventListener("click", async () => {
    button.disabled = true;
    await toProvider(window.location.pathname);
    button.disabled = false;
  });
}

const pages = { "sign-in": signInPage, invite: invitePage, start: startPage };
pages[document.body.dataset.page]().catch((error) => tell(error.message));
