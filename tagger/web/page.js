// The page of tagger: sends a song, draws its strips, follows the player, asks the library.
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const main = $("#drop"), song = $("#song"), file = $("input[type=file]");
const library = $("#library"), form = $("form"), found = $("#found"), listen = $(".listen");
const player = () => $("#song > audio");
let sending = null, asking = null;

function error(sentence) {
  const shown = document.createElement("p");
  Object.assign(shown, { className: "error", role: "alert", textContent: sentence });
  return shown.outerHTML;
}
const silent = "The server does not answer. Is it still running?";
async function reason(answer) {
  const { detail } = await answer.json().catch(() => ({}));
  return typeof detail === "string" ? detail : `The server answers ${answer.status}.`;
}
// A part of the page; null if it is no longer wanted.
async function fragment(url, signal) {
  try {
    const answer = await fetch(url, { signal });
    return answer.ok ? await answer.text() : error(await reason(answer));
  } catch {
    return signal?.aborted ? null : error(silent);
  }
}

// A song: lines of progress, then the fragment of the page.
async function hear(send, name) {
  sending?.abort();
  const mine = sending = new AbortController();
  main.classList.add("small");
  $(".choose").textContent = "Another song";
  song.innerHTML = "<p role=status></p><progress></progress>";
  $("p", song).textContent = `Listening to ${name} …`;
  try {
    const answer = await send(mine.signal);
    if (!answer.ok) throw new Error(await reason(answer));
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      text += value;
      const shares = text.match(/^(?:[\d.]+\n)*/)[0];
      text = text.slice(shares.length);
      if (shares && mine === sending) $("progress", song)?.setAttribute("value", shares.trim().split("\n").pop());
    }
    if (!text) throw new Error(silent);
    if (mine === sending) shown(text);
  } catch (failure) {
    if (mine === sending) song.innerHTML = error(`${name}: ${failure instanceof TypeError ? silent : failure.message}`);
  }
}
function upload(chosen) {
  const most = Number(main.dataset.megabytes), size = chosen.size / 1e6;
  if (size > most) {
    sending?.abort();
    sending = null;
    song.innerHTML = error(`${chosen.name}: it has ${size.toFixed(0)} MB; this page takes ${most}. Use tagger tag.`);
    return;
  }
  hear((signal) => {
    const body = new FormData();
    body.append("file", chosen);
    return fetch("songs", { method: "POST", body, signal });
  }, chosen.name);
}

function shown(text) {
  song.innerHTML = text;
  const table = $(".tags");
  if (!table) return;
  const borders = table.dataset.borders.split(" ").filter(Boolean).map(Number), end = Number(table.dataset.end);
  table.borders = borders;
  for (const row of $$(".row", table)) {
    row.scores = row.dataset.scores.trim().split(" ").map(Number);
    const edges = [0, ...borders, end];
    const points = row.scores.flatMap((score, i) => {
      const y = 100 - 100 * strength(score, row);
      return [`${100 * edges[i]},${y}`, `${100 * edges[i + 1]},${y}`];
    });
    $("polygon", row).setAttribute("points", `0,100 ${points.join(" ")} ${100 * end},100`);
    level(row, Number($("[data-mean]", row).dataset.mean));
  }
  const audio = player();
  audio.addEventListener("timeupdate", follow);
  audio.addEventListener("play", frame);
  audio.addEventListener("ended", () => $$(".row").forEach((row) => level(row, Number($("[data-mean]", row).dataset.mean))));
}
// A pause before the first sound is no error.
const start = (audio) => audio.play().catch(() => {});
// Half of a bar is the threshold, three quarters three times as much.
const strength = (score, row) => score / (score + Number(row.dataset.threshold));
function level(row, score) {
  $(".level span", row).style.width = `${100 * strength(score, row)}%`;
  $("[data-mean]", row).textContent = score.toFixed(2);
}
function follow() {
  const audio = player(), table = $(".tags");
  if (!audio?.duration || !table) return;
  const share = audio.currentTime / audio.duration;
  $$(".cursor").forEach((cursor) => (cursor.style.left = `${100 * share}%`));
  const segment = table.borders.filter((border) => border <= share).length;
  if (!audio.paused) $$(".row", table).forEach((row) => level(row, row.scores[segment]));
}
function frame() {
  follow();
  if (player() && !player().paused) requestAnimationFrame(frame);
}

async function why(button) {
  const row = button.closest("tr"), old = row.nextElementSibling;
  const isOpen = button.getAttribute("aria-expanded") === "true";
  button.setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) return old.remove();
  row.insertAdjacentHTML("afterend", "<tr class=why><td colspan=4 aria-live=polite><progress></progress></td></tr>");
  const cell = $("td", row.nextElementSibling);
  const token = $("[download]", song).getAttribute("href").split("/")[1];
  cell.innerHTML = await fragment(`songs/${token}/why?tag=${encodeURIComponent(button.dataset.why)}`);
  cell.scrollIntoView({ behavior: "smooth", block: "nearest" });
}

// The form, the tags and the player stay; what was found is replaced.
async function ask(question) {
  asking?.abort();
  const mine = asking = new AbortController();
  form.query.value = question.query ?? "";
  const text = await fragment(`library?${new URLSearchParams(question)}`, mine.signal);
  if (text === null || mine !== asking) return;
  const held = found.contains(document.activeElement), chips = $("#chips");
  found.innerHTML = text;
  const tags = $(".chips", found);
  if (tags && chips.said !== tags.outerHTML) {
    chips.innerHTML = chips.said = tags.outerHTML;
    form.query.placeholder = tags.dataset.example;
  }
  tags?.remove();
  mark();
  if (held) ($("[data-unlike]", found) ?? found).focus({ preventScroll: true });
}
function mark() {
  const url = $("audio", listen).getAttribute("src");
  for (const button of $$("[data-play]", found)) button.closest("tr").classList.toggle("playing", button.dataset.play === url);
}
function play(button) {
  const audio = $("audio", listen);
  listen.hidden = false;
  audio.nextElementSibling.innerHTML = "";
  audio.setAttribute("aria-label", button.getAttribute("aria-label"));
  audio.src = button.dataset.play;
  mark();
  start(audio);
}
async function unplayed(event) {
  const audio = event.target, url = audio.getAttribute("src"), headers = { Range: "bytes=0-0" };
  const answer = await fetch(url, { headers }).catch(() => null);
  const sentence = !answer ? silent : answer.ok ? "This browser cannot play the song." : await reason(answer);
  if (audio.getAttribute("src") === url) audio.nextElementSibling.innerHTML = error(sentence);
}

document.addEventListener("click", (event) => {
  const at = (selector) => event.target.closest(selector);
  const button = at("button"), data = button?.dataset ?? {}, time = at(".time"), audio = player();
  if (at(".choose")) file.click();
  else if (data.example) hear((signal) => fetch(`examples/${encodeURIComponent(data.example)}`, { method: "POST", signal }), data.example);
  else if (data.why) why(button);
  else if ("all" in data) { $$(".tags [hidden]").forEach((one) => (one.hidden = false)); button.remove(); }
  else if (data.word) {
    const query = form.query.value.trim(), held = /\bor\b/.test(query) ? `(${query})` : query;
    ask({ query: query ? `${held} and ${data.word}` : data.word });
  } else if (data.like) { ask({ like: data.like }).then(() => library.scrollIntoView({ behavior: "smooth" })); }
  else if ("unlike" in data) ask({});
  else if (data.play) play(button);
  else if (time && audio?.duration) {
    const box = time.getBoundingClientRect();
    audio.currentTime = ((event.clientX - box.left) / box.width) * audio.duration;
    follow();
  }
});
document.addEventListener("submit", (event) => {
  event.preventDefault();
  ask({ query: form.query.value });
});
document.addEventListener("keydown", (event) => {
  const audio = player();
  if (!audio || event.altKey || event.ctrlKey || event.metaKey || event.target.closest("button, input, a, audio, summary")) return;
  const step = { ArrowLeft: -5, ArrowRight: 5 }[event.key];
  if (event.key === " ") audio.paused ? start(audio) : audio.pause();
  else if (step) audio.currentTime = Math.max(audio.currentTime + step, 0);
  else return;
  event.preventDefault();
});
file.addEventListener("change", () => { if (file.files[0]) upload(file.files[0]); file.value = ""; });
for (const name of ["dragover", "drop", "dragleave"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    main.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
  });
// One sound at a time.
document.addEventListener("play", (event) => $$("audio").forEach((one) => one === event.target || one.pause()), true);
if (library) {
  $("audio", listen).addEventListener("error", unplayed);
  ask({});
}
