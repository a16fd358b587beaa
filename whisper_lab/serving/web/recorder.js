// The microphone: what is said goes to the server piece by piece, as 16-bit samples at the device's own rate, each with
// its place in the recording, so that nothing is lost or heard twice when the connection falters. `element`, `props`,
// `server` and `trigger` are Gradio's (gr.HTML, js_on_load).
const words = props.words[(navigator.language || "en").slice(0, 2)] || props.words.en;
const part = (name) => element.querySelector(".lab-" + name);
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const EVERY = 300; // milliseconds between pieces
const SHORTEST = 0.2; // seconds; in less nobody says anything
const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([input]) { if (input[0]) this.port.postMessage(input[0].slice()); return true; }
});`;

let recording = null;
let starting = false;

function say(text) { part("status").textContent = text; }

function join(pieces) {
  const whole = new Int16Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let at = 0;
  for (const piece of pieces) { whole.set(piece, at); at += piece.length; }
  return whole;
}

function base64(samples) {
  const bytes = new Uint8Array(samples.buffer);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

function wav(samples, rate) {
  const header = new DataView(new ArrayBuffer(44));
  const put = (at, text) => [...text].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  put(0, "RIFF"); header.setUint32(4, 36 + 2 * samples.length, true); put(8, "WAVEfmt ");
  header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true);
  header.setUint32(24, rate, true); header.setUint32(28, 2 * rate, true); header.setUint16(32, 2, true);
  header.setUint16(34, 16, true); put(36, "data"); header.setUint32(40, 2 * samples.length, true);
  return new Blob([header, samples], { type: "audio/wav" });
}

async function start() {
  if (!navigator.mediaDevices) return say(words.insecure);
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: false } });
  } catch (error) {
    return say(words.no_microphone);
  }
  const context = new AudioContext();
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([TAP], { type: "text/javascript" })));
  const tap = new AudioWorkletNode(context, "tap");
  const key = [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");
  recording = { key, stream, context, rate: context.sampleRate, pieces: [], sent: 0, count: 0, stopped: false };
  recording.why = ""; // what the speaker is told where it was not the speaker who ended it
  const mine = recording;
  stream.getTracks()[0].addEventListener("ended", () => {
    if (mine.stopped) return;
    mine.why = words.unplugged;
    stop();
  });
  tap.port.onmessage = ({ data }) => {
    if (mine.stopped) return;
    mine.pieces.push(Int16Array.from(data, (x) => Math.max(-1, Math.min(1, x)) * 32767));
    mine.count += data.length;
    mine.level = Math.max(mine.level || 0, ...data.map(Math.abs));
  };
  context.createMediaStreamSource(stream).connect(tap).connect(context.destination);
  part("button").classList.add("lab-on");
  part("button").querySelector("span").textContent = words.stop;
  part("settled").textContent = part("tentative").textContent = part("clock").textContent = "";
  say(words.speak_now);
  send(mine);
}

async function send(mine) {
  let fresh = 0; // how many pieces were sent
  while (true) {
    const stopped = mine.stopped;
    if (stopped && mine.count < SHORTEST * mine.rate) return say(mine.why || words.too_soon);
    let full = false, behind = false;
    const piece = join(mine.pieces.slice(fresh));
    if (piece.length || stopped) { // the last of it may be empty
      try {
        const reply = await server.hear({
          key: mine.key, at: mine.sent, rate: mine.rate, samples: base64(piece), settings: window.labSettings || "",
          last: stopped,
        });
        behind = reply.heard < mine.sent; // the server knows nothing of it any more: all of it again
        if (behind) mine.sent = fresh = 0;
        while (mine.sent < reply.heard) mine.sent += mine.pieces[fresh++].length;
        show(reply);
        full = reply.full;
      } catch (error) {
        say(words.lost);
        await sleep(1000);
        continue;
      }
    }
    if (full) mine.why = words.full;
    if (full && !mine.stopped) stop();
    if ((stopped && !behind) || full) break;
    const seconds = Math.floor(mine.count / mine.rate);
    part("clock").textContent = Math.floor(seconds / 60) + ":" + String(seconds % 60).padStart(2, "0");
    if (!mine.stopped) part("level").style.transform = `scaleX(${Math.min(1, Math.sqrt(mine.level || 0))})`;
    mine.level = 0;
    await sleep(EVERY);
  }
  window.labRecordings = { [mine.key]: URL.createObjectURL(wav(join(mine.pieces), mine.rate)) };
  say(mine.why || "");
  trigger("spoken", { key: mine.key });
}

function show(reply) {
  part("settled").textContent = reply.settled;
  part("tentative").textContent = reply.tentative;
  if (reply.full) say(words.full);
  else if (reply.waiting) say(words.waiting.replace("{place}", reply.waiting));
  else say(reply.settled || reply.tentative ? words.listening : words.speak_now);
}

function stop() {
  recording.stream.getTracks().forEach((track) => track.stop());
  recording.context.close();
  recording.stopped = true;
  recording = null;
  part("button").classList.remove("lab-on");
  part("button").querySelector("span").textContent = words.record;
  part("level").style.transform = "scaleX(0)";
}

part("button").querySelector("span").textContent = words.record;
element.addEventListener("click", (event) => {
  if (!event.target.closest(".lab-button") || starting) return;
  if (recording) return stop();
  starting = true;
  start().finally(() => { starting = false; });
});
