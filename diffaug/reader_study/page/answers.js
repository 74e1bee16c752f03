"use strict";
// What a reader has answered: kept in the browser as it is given, or on the disk of whoever serves the page.

const CATEGORIES = ["appearance", "slices", "anatomy"];
const QUESTIONS = [...CATEGORIES, "guess"];
const FORMAT = 1;

class Answers {
  constructor(study, count, reader, kept) {
    this.study = study;
    this.count = count;
    this.reader = reader;
    this.given = kept ? kept.answers : {};
    this.begun = kept ? kept.begun : new Date().toISOString();
    this.saved = kept ? kept.saved : this.begun;
    this.history = [];
  }

  of(number) {
    return this.given[number] || {};
  }

  set(number, name, value) {
    const before = this.of(number)[name];
    if (before === value) return;
    if (QUESTIONS.includes(name)) this.history.push({ number, name, before });
    this.given[number] = { ...this.of(number), [name]: value };
  }

  undo() {
    const last = this.history.pop();
    if (!last) return null;
    const { [last.name]: gone, ...others } = this.of(last.number);
    this.given[last.number] = last.before === undefined ? others : { ...others, [last.name]: last.before };
    return last;
  }

  looked(number, seconds) {
    const all = (this.of(number).seconds || 0) + seconds;
    this.given[number] = { ...this.of(number), seconds: Math.round(all * 100) / 100 };
  }

  complete(number) {
    return QUESTIONS.every((name) => this.of(number)[name] !== undefined);
  }

  open() {
    return Array.from({ length: this.count }, (_, i) => i + 1).filter((number) => !this.complete(number));
  }

  content() {
    this.saved = new Date().toISOString();
    const { study, reader, begun, saved, given } = this;
    return { format: FORMAT, study, reader, begun, saved, volumes: this.count, answers: given };
  }

  static readable(content) {
    return (
      content !== null && typeof content === "object" && content.format === FORMAT && typeof content.study === "string" &&
      /^[A-Za-z0-9_-]{1,40}$/.test(content.reader) && content.answers !== null && typeof content.answers === "object"
    );
  }
}

// Where answers are kept. `read` gives what was kept, or null; `write` gives whether it was kept.
const Places = {
  browser: {
    key: (reader) => `diffaug-${STUDY.id}-${reader}`,
    async read(reader) {
      try {
        return JSON.parse(localStorage.getItem(this.key(reader)));
      } catch {
        return null;
      }
    },
    async write(content) {
      try {
        localStorage.setItem(this.key(content.reader), JSON.stringify(content));
        return true;
      } catch {
        return false;
      }
    },
  },
  disk: {
    address: (reader) => `answers/${STUDY.id}/${reader}`,
    async read(reader) {
      try {
        const response = await fetch(this.address(reader), { cache: "no-store" });
        return response.ok ? await response.json() : null;
      } catch {
        return null;
      }
    },
    async write(content) {
      try {
        const body = JSON.stringify(content);
        const headers = { "Content-Type": "application/json" };
        const keepalive = new Blob([body]).size < 60000; // browsers count bytes
        return (await fetch(this.address(content.reader), { method: "PUT", headers, body, keepalive })).ok;
      } catch {
        return false;
      }
    },
  },
};

const SERVED = location.protocol !== "file:";

async function readKept(reader) {
  const found = await Promise.all([Places.browser.read(reader), SERVED ? Places.disk.read(reader) : null]);
  const good = found.filter((content) => content && Answers.readable(content) && content.study === STUDY.id);
  return good.sort((a, b) => (a.saved < b.saved ? 1 : -1))[0] || null;
}

function download(content) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = `answers_${content.study}_${content.reader}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
