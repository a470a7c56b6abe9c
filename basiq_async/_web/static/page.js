"use strict";
// Shows the HTML that the server renders, and calls the control API. All decisions are the server's.
const root = document.body.dataset.root;
const said = document.getElementById("said");
const search = document.getElementById("search");
const tip = document.getElementById("tip");
const rows = {};
const sections = [...document.querySelectorAll("[data-section]")];
let revision = "";

// --- keeping up to date ---

function children(old, fresh) {
  const known = new Map();
  for (const child of old.children) if (child.id) known.set(child.id, child);
  let at = old.firstChild;
  for (const want of [...fresh.childNodes]) {
    const alike = at && !at.id && !want.id && at.nodeName === want.nodeName;
    const have = want.id ? known.get(want.id) : alike ? at : null;
    if (!have) {
      old.insertBefore(want, at);
      continue;
    }
    if (have === at) at = at.nextSibling;
    else old.insertBefore(have, at);
    update(have, want);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

// Update an element to match another one. Opened details stay open, and unchanged parts are not touched.
function update(old, fresh) {
  if (old.dataset && "local" in old.dataset) return;
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== Node.ELEMENT_NODE || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  for (const { name, value } of [...fresh.attributes])
    if (name !== "aria-expanded" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  children(old, fresh);
}

function parse(html) {
  return new DOMParser().parseFromString(html, "text/html").body;
}

let busy = false;
let again = false;

async function refresh() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    do {
      again = false;
      const query = new URLSearchParams({ ...rows, search: search ? search.value : "" });
      const response = await fetch(`${root}/ui/sections?${query}`);
      if (!response.ok) break;
      const shown = await response.json();
      for (const section of sections) children(section, parse(shown.sections[section.dataset.section]));
      for (const name in shown.counts) document.getElementById(`${name}-count`).textContent = shown.counts[name];
      for (const button of document.querySelectorAll(".opens[aria-expanded=true]")) fill(button);
    } while (again);
  } catch {
    say("The server does not respond.");
  } finally {
    busy = false;
  }
}

function follow() {
  const source = new EventSource(`${root}/ui/stream`);
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    for (const id in news.texts) document.getElementById(id).textContent = news.texts[id];
    document.body.classList.remove("away");
    const known = JSON.stringify(news.revision);
    if (known !== revision) {
      revision = known;
      refresh();
    }
  };
  source.onerror = () => document.body.classList.add("away");
}

// --- acting ---

function say(text) {
  said.textContent = "";
  requestAnimationFrame(() => (said.textContent = text));
}

async function post(path, body) {
  const response = await fetch(root + path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const result = await response.json();
  if (response.ok) return result;
  say(result.error.message);
  return null;
}

function describe(element, result) {
  if ("attempts" in result)
    return `It is ${result.now.slice(11, 19)} now; ${result.attempts} ${result.attempts === 1 ? "attempt was" : "attempts were"} made.`;
  if ("messageIds" in result && element.dataset.said === "Emitted")
    return `Emitted: ${result.messageIds.length} ${result.messageIds.length === 1 ? "message" : "messages"}.`;
  return element.dataset.said ? `${element.dataset.said}.` : "Done.";
}

async function act(button) {
  if (button.dataset.confirm && !confirm(button.dataset.confirm)) return;
  button.setAttribute("aria-busy", "true");
  const result = await post(button.dataset.post, JSON.parse(button.dataset.body || "{}"));
  button.removeAttribute("aria-busy");
  if (result === null) return;
  const place = button.dataset.show && document.getElementById(button.dataset.show);
  if (place) {
    place.textContent = result.secret;
    place.hidden = false;
    say("The secret is shown.");
  } else say(describe(button, result));
}

async function submit(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.value === "") continue;
    try {
      body[field.name] =
        field.dataset.type === "number" ? Number(field.value)
        : field.dataset.type === "json" ? JSON.parse(field.value)
        : field.value;
    } catch {
      say("The data is not JSON.");
      field.focus();
      return;
    }
  }
  const result = await post(form.dataset.post, body);
  if (result !== null) say(describe(form, result));
}

// Fetch HTML from the server's own routes only. The id is in the query, so it cannot change the path.
async function fill(button) {
  const place = document.getElementById(button.getAttribute("aria-controls"));
  const asked = new URL(`${root}/ui/${button.dataset.detail}?${new URLSearchParams({ id: button.dataset.id })}`, location);
  const response = await fetch(asked, { redirect: "error" }).catch(() => null);
  if (response === null) return say("The server does not respond.");
  const isFragment = (response.headers.get("Content-Type") || "").split(";")[0] === "text/html";
  if (response.ok && isFragment && response.url === asked.href) children(place, parse(await response.text()));
}

async function toggle(button) {
  const open = button.getAttribute("aria-expanded") !== "true";
  const place = document.getElementById(button.getAttribute("aria-controls"));
  if (open) await fill(button);
  button.setAttribute("aria-expanded", String(open));
  place.hidden = !open;
}

async function copy(button) {
  try {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    say("Copied.");
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    say("Selected: copy it with the keyboard.");
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if ("copy" in button.dataset) copy(button);
  else if (button.dataset.post) act(button);
  else if (button.dataset.detail) toggle(button);
  else if (button.dataset.more) {
    rows[button.dataset.more] = Number(button.dataset.rows) + 200;
    refresh();
  }
});

document.addEventListener("submit", (event) => {
  event.preventDefault();
  submit(event.target);
});

let typing;
search?.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(refresh, 150);
});

// --- the marks of a message, and the keyboard ---

function showTip(mark) {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const place = mark.getBoundingClientRect();
  const half = tip.offsetWidth / 2;
  const x = Math.min(Math.max(place.x + place.width / 2, half + 8), document.documentElement.clientWidth - half - 8);
  tip.style.left = `${x - half}px`;
  tip.style.top = `${scrollY + place.bottom + 6}px`;
}

for (const [on, off] of [["pointerover", "pointerout"], ["focusin", "focusout"]]) {
  document.addEventListener(on, (event) => {
    const mark = event.target.closest?.(".mark");
    if (mark) showTip(mark);
  });
  document.addEventListener(off, (event) => {
    if (event.target.closest?.(".mark")) tip.hidden = true;
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    search?.focus();
    return;
  }
  if (event.key === "Escape") tip.hidden = true;
  const row = event.target.closest?.(".row");
  if (!row || event.target.closest(".about")) return;
  const stops = [row.querySelector(".opens"), ...row.querySelectorAll(".mark")];
  const at = stops.indexOf(event.target.closest(".opens, .mark"));
  let to;
  if (event.key === "ArrowRight") to = stops[at + 1];
  else if (event.key === "ArrowLeft") to = stops[at - 1];
  else if (event.key === "ArrowDown") to = row.nextElementSibling?.querySelector(".opens");
  else if (event.key === "ArrowUp") to = row.previousElementSibling?.querySelector(".opens");
  if (to) {
    event.preventDefault();
    to.focus();
  }
});

follow();
