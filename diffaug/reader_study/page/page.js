"use strict";
// The page: a start, and a volume beside its questions. Everything that the mouse can do, the keyboard can.

const find = (id) => document.getElementById(id);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);

let answers = null;
let viewer = null;
let number = 1;
let shownAt = 0;
let asked = 0; // which question a digit answers
let saving = null;

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function writeTexts() {
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = TEXTS[each.dataset.text];
  document.title = STUDY.title || TEXTS.heading;
  find("title").textContent = STUDY.title;
  find("introduction").append(...TEXTS.introduction.map((text) => element("p", { textContent: text })));
  for (const id of ["keys", "keys-again"]) {
    for (const [keys, what] of TEXTS.keys) {
      const row = element("tr", {}, element("th", { textContent: keys, scope: "row" }), element("td", { textContent: what }));
      find(id).append(row);
    }
  }
}

function choice(question, value, text, key) {
  const input = element("input", { type: "radio", name: question, value });
  input.addEventListener("change", () => give(question, value));
  input.addEventListener("focus", () => mark(QUESTIONS.indexOf(question)));
  return element("label", {}, input, element("kbd", { textContent: key, ariaHidden: true }), element("span", { textContent: text }));
}

function writeQuestions() {
  for (const name of CATEGORIES) {
    const { question, grades } = TEXTS.categories[name];
    const choices = grades.map((text, i) => choice(name, i + 1, text, i + 1));
    find("questions").append(element("fieldset", { id: name }, element("legend", { textContent: question }), ...choices));
  }
  const guesses = ["real", "synthetic"].map((value, i) => choice("guess", value, TEXTS.guess.answers[i], i + 1));
  const row = element("div", {}, ...guesses);
  find("questions").append(
    element("fieldset", { id: "guess", className: "guess" }, element("legend", { textContent: TEXTS.guess.question }), row),
  );
}

function slider(text, read, move) {
  const input = element("input", { type: "range" });
  const output = element("output", {});
  input.addEventListener("input", () => move(Number(input.value)));
  find("sliders").append(element("label", {}, element("span", { textContent: text }), input, output));
  return () => {
    const [value, low, high] = read();
    Object.assign(input, { min: low, max: high, value });
    output.textContent = Math.round(value);
  };
}

function writeSliders() {
  const refresh = [];
  [2, 1, 0].forEach((axis, i) => {
    const move = (value) => viewer.moveTo(viewer.place.map((at, along) => (along === axis ? value : at)));
    refresh.push(slider(TEXTS.planes[i], () => [viewer.place[axis], 0, viewer.size[axis] - 1], move));
  });
  const range = STUDY.high - STUDY.low;
  const level = (value) => (viewer.window = [value, viewer.window[1]]);
  const width = (value) => (viewer.window = [viewer.window[0], value]);
  refresh.push(slider(TEXTS.level, () => [viewer.window[0], STUDY.low, STUDY.high], level));
  refresh.push(slider(TEXTS.width, () => [viewer.window[1], 1, 2 * range], width));
  const buttons = element("div", { className: "row" });
  const button = (text, what) => {
    const made = element("button", { type: "button", textContent: text });
    made.addEventListener("click", what);
    buttons.append(made);
  };
  button(TEXTS.reset, () => viewer.reset());
  for (const [name, limits] of Object.entries(STUDY.presets)) button(TEXTS.presets[name], () => (viewer.window = limits));
  find("sliders").append(buttons);
  return () => refresh.forEach((each) => each());
}

function mark(question) {
  asked = question;
  QUESTIONS.forEach((name, i) => find(name).classList.toggle("asked", i === question));
}

function give(question, value) {
  answers.set(number, question, value);
  const open = QUESTIONS.findIndex((name) => answers.of(number)[name] === undefined);
  mark(open < 0 ? QUESTIONS.indexOf(question) : open);
  refreshAnswers();
  save();
}

function refreshAnswers() {
  const given = answers.of(number);
  for (const input of find("questions").querySelectorAll("input")) input.checked = String(given[input.name]) === input.value;
  const done = STUDY.volumes - answers.open().length;
  Object.assign(find("done"), { max: STUDY.volumes, value: done });
  find("progress").textContent = fill(TEXTS.progress, { done, count: STUDY.volumes });
  find("undo").disabled = !answers.history.length;
  find("previous").disabled = number === 1;
  find("next").disabled = number === STUDY.volumes;
  if (done === STUDY.volumes) tell(SERVED ? TEXTS.finished_served : TEXTS.finished);
}

// After keys alone: what moves under a pointer is clicked by mistake. The picture stays where it is.
function bringIntoSight() {
  const [room, box] = [find("ask"), find(QUESTIONS[asked])].map((each) => each.getBoundingClientRect());
  find("ask").scrollTop += Math.max(0, box.bottom - room.bottom) + Math.min(0, box.top - room.top);
}

function tell(text) {
  if (find("message").textContent !== text) find("message").textContent = text;
}

async function save() {
  const content = answers.content();
  const kept = Places.browser.write(content); // at once: the disk may be slow, and the page closed meanwhile
  const previous = saving;
  saving = (async () => {
    await previous; // in the order in which they were given
    const here = await kept;
    const there = SERVED ? await Places.disk.write(content) : false;
    find("kept").textContent = there ? TEXTS.kept_served : here && !SERVED ? TEXTS.kept : "";
    if (SERVED && !there) tell(TEXTS.not_saved);
    else if (!here && !there) tell(TEXTS.not_kept);
    else if ([TEXTS.not_saved, TEXTS.not_kept].includes(find("message").textContent)) tell("");
  })();
  await saving;
}

function leave() {
  if (answers && shownAt) {
    answers.looked(number, (performance.now() - shownAt) / 1000);
    shownAt = performance.now();
  }
}

async function goTo(wanted) {
  const next = Math.min(Math.max(wanted, 1), STUDY.volumes);
  leave();
  save();
  number = next;
  shownAt = 0;
  tell("");
  find("number").textContent = fill(TEXTS.volume, { number, count: STUDY.volumes });
  find("canvas").setAttribute("aria-label", fill(TEXTS.picture, { number }));
  find("remark").value = answers.of(number).remark || "";
  const open = QUESTIONS.findIndex((name) => answers.of(number)[name] === undefined);
  mark(Math.max(open, 0));
  refreshAnswers();
  find("kept").textContent = TEXTS.loading;
  try {
    const data = await loadVolume(next);
    if (number !== next) return; // another was asked for meanwhile
    await viewer.show(data);
    shownAt = performance.now();
    find("study").dataset.shown = number;
    if (find("kept").textContent === TEXTS.loading) find("kept").textContent = "";
  } catch (error) {
    console.error(error);
    if (number === next) tell(TEXTS.no_volume);
  }
}

function undo() {
  const last = answers.undo();
  if (!last) return;
  save();
  if (last.number !== number) {
    goTo(last.number).then(() => mark(QUESTIONS.indexOf(last.name)));
  }
  refreshAnswers();
  mark(QUESTIONS.indexOf(last.name));
  tell(fill(TEXTS.undone, { number: last.number }));
}

const SHORTCUTS = {
  n: () => goTo(number + 1),
  enter: () => goTo(number + 1),
  p: () => goTo(number - 1),
  u: undo,
  f: () => goTo(answers.open()[0] || number),
  r: () => viewer.reset(),
  x: () => viewer.toggleCross(),
  w: () => moveWindow(0.05, 0),
  s: () => moveWindow(-0.05, 0),
  a: () => moveWindow(0, -0.05),
  d: () => moveWindow(0, 0.05),
  pageup: () => viewer.step(2, 1),
  pagedown: () => viewer.step(2, -1),
};
const HELD = new Set(["w", "a", "s", "d", "pageup", "pagedown"]); // go on while they are held
const ARROWS = { arrowleft: [0, 1], arrowright: [0, -1], arrowup: [2, 1], arrowdown: [2, -1] }; // the patient's left is on the right

function moveWindow(level, width) {
  const range = STUDY.high - STUDY.low;
  const [at, wide] = viewer.window;
  viewer.window = [at + level * range, wide + width * range];
}

function press(event) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey && key === "z" && event.target !== find("remark")) {
    event.preventDefault();
    if (!event.repeat) undo();
    return bringIntoSight();
  }
  if (event.ctrlKey || event.altKey || event.metaKey || !find("shortcuts").checked) return undefined;
  if (event.target === find("remark")) return undefined;
  if (key === "enter" && event.target.matches("button, summary, input[type=checkbox]")) return undefined;
  if (event.target === find("canvas") && ARROWS[key]) {
    event.preventDefault();
    return viewer.step(...ARROWS[key]);
  }
  if (event.repeat && !HELD.has(key)) return undefined; // a key held too long would answer the next questions, too
  const question = QUESTIONS[asked];
  const values = question === "guess" ? ["real", "synthetic"] : [1, 2, 3, 4];
  const value = values[Number(key) - 1];
  if (/^[1-4]$/.test(key) && value !== undefined) {
    event.preventDefault();
    give(question, value);
    return bringIntoSight();
  }
  const shortcut = SHORTCUTS[key];
  if (shortcut) {
    event.preventDefault();
    event.stopPropagation();
    shortcut();
    return bringIntoSight();
  }
  return undefined;
}

async function begin(reader, kept) {
  find("start-message").textContent = "";
  answers = new Answers(STUDY.id, STUDY.volumes, reader, kept || (await readKept(reader)));
  find("start").hidden = true;
  find("study").hidden = false;
  let refresh = () => {};
  viewer = new Viewer(find("canvas"), () => refresh());
  try {
    await viewer.open();
  } catch (error) {
    console.error(error);
    find("study").hidden = true;
    find("start").hidden = false;
    find("start-message").textContent = TEXTS.no_webgl;
    return undefined;
  }
  refresh = writeSliders();
  document.addEventListener("keydown", press, true);
  addEventListener("storage", (event) => {
    if (event.key !== Places.browser.key(reader) || !event.newValue) return;
    answers = new Answers(STUDY.id, STUDY.volumes, reader, JSON.parse(event.newValue)); // another tab's, which are newer
    refreshAnswers();
  });
  addEventListener("pagehide", () => {
    leave();
    save();
  });
  document.addEventListener("visibilitychange", () => (document.hidden ? leave() : (shownAt = performance.now())));
  await goTo(answers.open()[0] || 1);
  find("canvas").focus();
  return undefined;
}

async function beginFromFile(file) {
  let content = null;
  try {
    content = JSON.parse(await file.text());
  } catch {
    content = null;
  }
  const wrong = !Answers.readable(content) ? TEXTS.unreadable : content.study !== STUDY.id ? TEXTS.foreign : "";
  find("start-message").textContent = wrong;
  if (!wrong) await begin(content.reader, content);
}

function start() {
  writeTexts();
  writeQuestions();
  find("begin").addEventListener("submit", (event) => {
    event.preventDefault();
    begin(find("reader").value);
  });
  find("file").addEventListener("change", () => {
    const [file] = find("file").files;
    find("file").value = ""; // so that the same file may be chosen again, mended
    if (file) beginFromFile(file);
  });
  find("previous").addEventListener("click", () => goTo(number - 1));
  find("next").addEventListener("click", () => goTo(number + 1));
  find("undo").addEventListener("click", undo);
  find("save").addEventListener("click", () => {
    leave();
    download(answers.content());
  });
  find("remark").addEventListener("input", () => {
    answers.set(number, "remark", find("remark").value);
    save();
  });
  find("questions").addEventListener("submit", (event) => event.preventDefault());
  find("start").hidden = false;
  find("reader").focus();
}

start();
