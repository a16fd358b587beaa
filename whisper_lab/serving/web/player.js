// The result: a click on a segment's time seeks, one on its text corrects it; the segment being played is marked, its
// caption is shown over the player. A recording plays from the browser's own memory; a film from YouTube, by its
// player's messages. `element`, `server` and `watch` are Gradio's (gr.HTML, js_on_load).
const player = () => element.querySelector("audio, video");
const frame = () => element.querySelector("iframe");
const tell = (message) => frame().contentWindow.postMessage(JSON.stringify(message), "*");

function seek(seconds) {
  if (frame()) {
    tell({ event: "command", func: "seekTo", args: [seconds, true] });
    tell({ event: "command", func: "playVideo", args: [] });
  } else if (player()) {
    player().currentTime = seconds;
    player().play().catch(() => {});
  }
  mark(seconds);
}

let now = 0; // where the player is, in seconds

function mark(seconds) {
  now = seconds;
  let current = null;
  for (const button of element.querySelectorAll("button[data-start]")) {
    const on = button.dataset.start <= seconds + 0.01 && seconds < button.dataset.end;
    button.classList.toggle("lab-current", on);
    if (on) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    if (on) current = button;
  }
  const list = element.querySelector(".lab-segments");
  if (current && list && list.dataset.at !== current.dataset.start && !list.querySelector("span:focus")) {
    list.dataset.at = current.dataset.start;
    list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 3;
  }
  const caption = element.querySelector(".lab-caption");
  if (caption) {
    const cue = JSON.parse(caption.dataset.cues).find(([start, end]) => start <= seconds + 0.01 && seconds < end);
    caption.textContent = cue ? cue[2] : "";
  }
}

// What is corrected, by the number of its segment; the transcript as it came goes along with it to the server, which
// times the words and writes the files, and keeps nothing.
let edited = { transcript: "", texts: {} };
let before = {}; // of the text that is being corrected: `text`, and its `html`
let unsent = false;
let sending = null; // a promise, while the files do not hold all corrections

const texts = () => [...element.querySelectorAll(".lab-segments span")];
const downloads = () => [...element.querySelectorAll("a[download]")];
const say = (text) => { element.querySelector(".lab-row [role=status]").textContent = text; };

const line = (span) => span.innerText.split(/\s+/).filter(Boolean).join(" ");

function keep(span) {
  const text = line(span);
  if (text === before.text) {
    span.innerHTML = before.html;
    return;
  }
  span.textContent = text;
  edited.texts[texts().indexOf(span)] = text;
  unsent = true;
  sending ||= send().finally(() => { sending = null; });
}

async function send() {
  while (unsent) {
    unsent = false;
    const mine = edited;
    try {
      const reply = await server.edit(mine);
      if (mine === edited && !unsent) show(reply);
    } catch (error) {
      if (mine !== edited) continue;
      unsent = true;
      say(element.querySelector("[data-lost]").dataset.lost);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

function show(reply) {
  if (reply.error) return say(reply.error);
  element.querySelector(".lab-text").innerHTML = reply.text;
  for (const [i, row] of Object.entries(reply.rows)) {
    if (texts()[i] !== document.activeElement) texts()[i].innerHTML = row;
  }
  for (const link of downloads()) {
    const kind = link.href.slice(0, link.href.indexOf(",") + 1);
    link.href = kind + encodeURIComponent(reply.files[link.download.split(".").pop()]);
  }
  element.querySelector(".lab-caption").dataset.cues = JSON.stringify(reply.cues);
  const copied = element.querySelector("[data-copy]");
  if (copied) copied.textContent = copied.dataset.copy; // what was copied is not this text any more
  mark(now);
  say(element.querySelector("[data-edited]").dataset.edited);
}

async function copy(button) {
  await sending;
  const text = element.querySelector(".lab-text").innerText;
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) { // not over plain http from another machine
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text; area.select(); document.execCommand("copy"); area.remove();
  }
  button.dataset.copy ||= button.textContent;
  button.textContent = button.dataset.copied;
}

// A sound that is made on the server meanwhile (data-made) is asked for until it is there.
function again({ target }) {
  const media = target.closest("[data-made]");
  if (!media || target !== media.lastElementChild) return;
  media.tries = (media.tries || 0) + 1;
  if (media.tries < 1000) setTimeout(() => { if (media.isConnected) media.load(); }, 1000);
}

function arrived() {
  const mine = element.querySelector("[data-recording]");
  if (mine && window.labRecordings) mine.src = window.labRecordings[mine.dataset.recording] || "";
  for (const name of element.querySelectorAll("[data-language]")) {
    name.textContent = new Intl.DisplayNames(name.lang, { type: "language" }).of(name.dataset.language);
  }
  if (element.querySelector(".lab-result")) {
    const json = downloads().find((link) => link.download.endsWith(".json")).href;
    edited = { transcript: decodeURIComponent(json.slice(json.indexOf(",") + 1)), texts: {} };
    window.labEdits = edited.texts; // for the panel that keeps clips
    unsent = false;
    now = 0;
    document.querySelectorAll(".lab-settled, .lab-tentative").forEach((text) => { text.textContent = ""; });
  }
  if (frame()) frame().addEventListener("load", () => tell({ event: "listening", id: 1, channel: "widget" }));
}

element.addEventListener("click", (event) => {
  const segment = event.target.closest("button[data-start]");
  if (segment) seek(Number(segment.dataset.start));
  const button = event.target.closest(".lab-copy");
  if (button) copy(button);
  const link = event.target.closest("a[download]");
  if (link && sending) { // the click may have ended a correction
    event.preventDefault();
    sending.then(() => link.click());
  }
});
element.addEventListener("focusin", (event) => {
  if (texts().includes(event.target)) before = { text: line(event.target), html: event.target.innerHTML };
});
element.addEventListener("focusout", (event) => {
  if (texts().includes(event.target)) keep(event.target);
});
element.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing || !texts().includes(event.target)) return;
  event.target.innerHTML = before.html;
  event.target.previousElementSibling.focus();
});
element.addEventListener("beforeinput", (event) => {
  if (!["insertParagraph", "insertLineBreak"].includes(event.inputType)) return; // Enter, also a phone's
  event.preventDefault();
  event.target.previousElementSibling.focus();
});
element.addEventListener("error", again, true);
element.addEventListener("timeupdate", (event) => mark(event.target.currentTime), true);
window.addEventListener("message", (event) => {
  if (!frame() || event.source !== frame().contentWindow) return;
  try {
    const { info } = JSON.parse(event.data);
    if (info && typeof info.currentTime === "number") mark(info.currentTime);
  } catch (error) { /* another message */ }
});
watch("value", arrived);
