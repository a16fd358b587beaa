// The result: a click on a segment seeks, the segment being played is marked, its caption is shown over the player.
// A recording plays from the browser's own memory; a film from YouTube, by its player's messages.
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

function mark(seconds) {
  let current = null;
  for (const button of element.querySelectorAll("button[data-start]")) {
    const on = button.dataset.start <= seconds + 0.01 && seconds < button.dataset.end;
    button.classList.toggle("lab-current", on);
    if (on) button.setAttribute("aria-current", "true"); else button.removeAttribute("aria-current");
    if (on) current = button;
  }
  const list = element.querySelector(".lab-segments");
  if (current && list && list.dataset.at !== current.dataset.start) {
    list.dataset.at = current.dataset.start;
    list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 3;
  }
  const caption = element.querySelector(".lab-caption");
  if (caption) {
    const cue = JSON.parse(caption.dataset.cues).find(([start, end]) => start <= seconds + 0.01 && seconds < end);
    caption.textContent = cue ? cue[2] : "";
  }
}

async function copy(button) {
  const text = element.querySelector(".lab-text").innerText;
  try {
    await navigator.clipboard.writeText(text);
  } catch (error) { // not over plain http from another machine
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text; area.select(); document.execCommand("copy"); area.remove();
  }
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
  if (element.querySelector(".lab-result")) {
    document.querySelectorAll(".lab-settled, .lab-tentative").forEach((text) => { text.textContent = ""; });
  }
  if (frame()) frame().addEventListener("load", () => tell({ event: "listening", id: 1, channel: "widget" }));
}

element.addEventListener("click", (event) => {
  const segment = event.target.closest("button[data-start]");
  if (segment) seek(Number(segment.dataset.start));
  const button = event.target.closest(".lab-copy");
  if (button) copy(button);
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
